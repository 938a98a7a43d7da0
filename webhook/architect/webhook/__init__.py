"""The admission webhook: reads annotations, injects the runtime class and the policy.

``admission`` decides (pure), ``review`` is the AdmissionReview on the wire, ``patch`` the
difference as a JSON patch, ``app`` the HTTP edge; ``certificates`` decides about certificates
(pure), ``rotation`` carries it out over ``cluster``, ``tls`` serves with the newest.
"""
