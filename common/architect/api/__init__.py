"""The contracts between the parts: names, policy and wire messages.

Nothing here imports anything else of ours, and nothing beyond the standard library, so that the
shim may use it.
"""
