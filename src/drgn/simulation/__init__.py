"""Simulated particle sets: molecules and how they move, the microscope, poses, noise, and the files (P33, P34)."""
