from __future__ import annotations

import subprocess
import sys

import pytest

from architect.checkpoint import digests
from architect.core.errors import FormatError

VECTORS = {
    0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    102400: "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085",
}
"""By length: https://github.com/BLAKE3-team/BLAKE3/blob/master/test_vectors/test_vectors.json."""


@pytest.mark.parametrize("length", VECTORS)
def test_it_is_the_hash_that_its_name_says(length: int) -> None:
    data = bytes(n % 251 for n in range(length))
    assert digests.NAME == "blake3"
    for form in (data, bytearray(data), memoryview(data)):
        assert digests.of(form) == VECTORS[length]


def test_what_comes_in_parts_has_the_hash_of_the_whole() -> None:
    data = bytes(n % 251 for n in range(102400))
    value = digests.hasher()
    for start in range(0, len(data), 999):
        value.update(data[start : start + 999])
    assert value.hexdigest() == VECTORS[len(data)]


def test_a_hash_is_written_in_one_form() -> None:
    text = digests.of(b"")
    assert digests.form(text, "here") == text
    for other in (text.upper(), text[:-1], text + "0", f" {text}", None, 1):
        with pytest.raises(FormatError, match="here"):
            digests.form(other, "here")


def test_the_operator_reads_the_formats_without_the_library() -> None:
    code = "import sys, architect.operator.adopter; sys.exit('blake3' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
