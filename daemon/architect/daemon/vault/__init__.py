"""Checkpoints in an object store, sealed: they need their node no longer, and nobody reads them.

::

    store       objects of one bucket: put, get, errors by name
    shards      a part of a checkpoint, compressed and encrypted
    stream      the pieces of a checkpoint as one row of bytes
    progress    an upload on this node's disk: another daemon goes on with it
    received    a download, likewise
    journal     lines that one daemon writes, and the one that comes after it reads
    proof       that what is sent is what the manifest says
    streams     whose shard is sent next, and how many at once
    sending     the shards of one upload
    upload      a checkpoint of this node: shards in parallel, the envelope last
    download    a checkpoint from the store into a directory that appears whole or not at all
    reach       whether the store answers
    cluster_key for whom data keys are encrypted
    service     these together, as the daemon runs them

``awscrt`` is imported by ``store`` only, when it is first used.
"""
