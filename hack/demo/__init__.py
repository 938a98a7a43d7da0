"""The demonstration: applications that sleep, wake and move with their memory in a real cluster.

``python -m demo`` runs it, ``python -m demo down`` removes what it made.
"""
