"""Checkpoints in an object store, sealed by the node that took them.

::

    shards      one shard: compressed and encrypted, and back
"""
