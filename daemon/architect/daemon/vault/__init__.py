"""Checkpoints to and from the object store."""
