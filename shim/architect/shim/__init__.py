"""What runs on a node's host: the OCI runtime's command line, the keeper, and what they share.

Standard library only: every container start waits for this package's imports.
"""
