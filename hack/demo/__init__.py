"""The demonstration: three applications that sleep and wake with their memory in a real cluster.

``python -m demo`` runs it, ``python -m demo down`` removes what it made.
"""
