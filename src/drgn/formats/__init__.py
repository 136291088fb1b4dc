"""Files of other programs (MRC, RELION, cryoSPARC, cryoDRGN) read into one particle table, and back."""
