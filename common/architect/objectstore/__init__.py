"""The object store: where it is, what it says no with, and what the operator does in it.

::

    settings    address, bucket and prefix; the form of keys
    errors      answers and failures as errors of our own
    trust       whether the server's certificate is one that we take
    control     lists and deletes, for the operator

What moves checkpoints is the daemon's (``architect.daemon.vault.store``). ``boto3`` is imported by
``control`` only, when it is used: the daemon does without.
"""
