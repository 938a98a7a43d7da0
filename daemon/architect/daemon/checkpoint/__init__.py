"""Checkpoints that travel: what is in one, and whether it is all there."""
