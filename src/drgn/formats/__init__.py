"""Files of other programs, read into one particle table and written back: MRC, RELION, cryoSPARC, cryoDRGN."""
