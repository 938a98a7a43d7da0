"""What only a cluster has is broken: daemon, operator, containerd, its shim, kubelet, API server.

As :mod:`faults.stage`, through the real kubelet::

    stage     the pairs of one fault, one after the other, and what each has left
    trial     one pair: while a pod lives, while it is made, while it ends
    steps     how a pod is brought to a step
    breaking  how each thing is broken
    pod       a pod of the API
    place     the node and the namespace where that is

The pod is stopped at its steps by the same gate, which watches the node's ``/var/lib`` and
``/run``. Clients talk to the pod's own address: a Service says where kubelet believes it to be
ready, and a kubelet that was killed believes nothing for a moment.
"""
