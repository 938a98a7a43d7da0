"""How servers of other people's certificate authorities are verified."""

from __future__ import annotations

import ssl


def without_strictness(context: ssl.SSLContext) -> ssl.SSLContext:
    """Have *context* verify as Python did before 3.13, and return it.

    Since then ``ssl.create_default_context`` asks for what RFC 5280 wants of a CA certificate
    (VERIFY_X509_STRICT). The CAs of many clusters, Amazon EKS's among them, and of private object
    stores have no Authority Key Identifier, and live ten years. Chain, name and dates are verified
    as ever.
    """
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
