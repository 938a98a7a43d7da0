"""The operator: the cluster's view of Architect's objects.

It removes checkpoints whose pod is gone, answers PersistentCheckpoints, and tells about pods that
want to be managed and are not. It is on no pod's path: while it is away nothing is collected or
reported, and sleeping pods still wake.
"""
