"""What services of a cloud have in common: the object store, and what seals its keys.

::

    addresses   where one is, and by whose certificate it is believed
    answers     what it says no with, as errors of our own
    translation what boto3 raises, as the same errors

``boto3`` is imported by ``translation`` only, when it is used: the daemon does without.
"""
