"""Kubernetes quantities (``100m``, ``1.5``, ``128Mi``, ``1e3``) as exact numbers."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

_SUFFIX: Final = {
    "": Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 10**3),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "E": Fraction(10**18),
    "Ki": Fraction(2**10),
    "Mi": Fraction(2**20),
    "Gi": Fraction(2**30),
    "Ti": Fraction(2**40),
    "Pi": Fraction(2**50),
    "Ei": Fraction(2**60),
}

_FORM = re.compile(
    r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))(?:([eE][+-]?\d{1,3})|("
    + "|".join(sorted((s for s in _SUFFIX if s), key=len, reverse=True))
    + r")?)"
)


def parse(text: str) -> Fraction:
    """Return the number that *text* stands for. Raises ValueError."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a quantity such as 100m or 128Mi")
    number, exponent, suffix = match.groups()
    if exponent:
        return Fraction(number + exponent)
    return Fraction(number) * _SUFFIX[suffix or ""]


def to_int(text: str) -> int:
    """Return *text* as a whole number, rounded up as Kubernetes does. Raises ValueError."""
    return -int(-parse(text) // 1)


def render_cpu(cores: Fraction) -> str:
    """Return *cores* in millicores, rounded up: the smallest unit a request may have."""
    return f"{-int(-cores * 1000 // 1)}m"


def render_bytes(number: Fraction) -> str:
    """Return a number of bytes, in KiB where it is a whole number of them."""
    whole = -int(-number // 1)
    return f"{whole // 1024}Ki" if whole and whole % 1024 == 0 else str(whole)
