"""Certificates: what those who issue them and those who ask for them have in common."""
