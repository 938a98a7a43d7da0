"""The service that seals the cluster's private keys, so that the Secret alone opens nothing.

::

    seal        what stands in the Secret beside what is sealed
    settings    which service, which of its keys
    service     what is asked of one; to have none
    errors      refusals by name
    aws         AWS KMS, and what speaks its protocol

:mod:`architect.operator.strongbox` asks, and remembers the answers. ``boto3`` is imported by
``aws`` only, when it is first asked.
"""
