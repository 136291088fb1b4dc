"""Comparison of a reconstruction, ours or another program's, with the truth of simulated particles.

Nothing here is used to choose anything in a reconstruction. Every score is one number with a flat name; what
it can be at best and by chance is stated with it. P23, P24, P36 of the paper; Jeon et al., CryoBench, NeurIPS
2024, for the per-image FSC and the measures of latents.
"""
