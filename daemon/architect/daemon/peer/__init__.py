"""Checkpoints from one node's daemon to another's: gRPC over mutual TLS.

::

    identity    this daemon's certificate: asked for, renewed
    addresses   where the daemon of a node is
    claims      which node may read a checkpoint
    protocol    what is said on the wire, and its limits
    server      gives pieces to whom may read them
    source      another node's daemon during one transfer
    client      gets a checkpoint: segments in parallel, resumed, verified
    service     these together, as the daemon runs them

``grpc`` is imported by ``server`` and ``source`` only, which ``service`` loads when it runs: the
other commands of the daemon do without.
"""
