"""What a run will cost on this machine, told before it starts."""
