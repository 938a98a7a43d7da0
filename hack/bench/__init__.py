"""The benchmark: what sleeping and waking cost, beside plain runc and plain CRIU in the same run.

``figures`` and ``plan`` are pure; ``agent`` and ``client`` are processes that run inside nodes and
their networks; the rest drives the cluster and them.
"""
