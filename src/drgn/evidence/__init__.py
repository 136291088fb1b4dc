"""What the images say of a map that a network has made: maps of a state's particles alone (P26)."""
