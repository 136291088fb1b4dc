"""Particles as batches: the prepared stack on disk and the data module on top of it."""
