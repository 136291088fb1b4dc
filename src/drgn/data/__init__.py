"""Particles as batches: the prepared stack on disk and the Lightning data module on top of it."""
