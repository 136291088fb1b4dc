"""How fast this program is on this machine, alone and beside cryoDRGN."""
