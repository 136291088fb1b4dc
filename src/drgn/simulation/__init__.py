"""Simulated particle sets: molecules, how they move, microscope, poses, noise and the files (P33, P34)."""
