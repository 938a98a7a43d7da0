"""The C launcher, which looks for two texts in config.json before anything else of us runs.

Built with AddressSanitizer and UndefinedBehaviorSanitizer. Its answer is compared with what the
interpreter makes of the same file: of a container that asks for it, it must not be passed by.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import subprocess
from collections.abc import Iterator
from typing import Final

from architect.shim import oci
from architect.shim.__main__ import UNEXPECTED_SHAPE
from fuzz import harness, mutations, scratch
from fuzz.targets import oci as configs

MUTATE = mutations.document

SOURCES: Final = harness.HERE.parents[1] / "shim" / "native"
SANDBOX: Final = b"sandbox"


def seeds() -> Iterator[bytes]:
    yield from configs.seeds()
    yield b""
    yield b"architect.dev/"
    yield b"architect.dev" * 400


def run(data: bytes) -> None:
    try:
        is_asked = _process().judge(data)
    except OSError:
        process = _process()
        _process.cache_clear()
        raise AssertionError(f"the launcher ended: {process.last_words()}") from None
    if not is_asked and _is_as_engines_write(data) and SANDBOX not in data:
        with contextlib.suppress(*UNEXPECTED_SHAPE):
            assert oci.wanted(json.loads(data), container_id="id1") is None


def _is_as_engines_write(data: bytes) -> bool:
    """Whether it is JSON without needless escapes and spaces."""
    try:
        value = json.loads(data)
        return json.dumps(value, separators=(",", ":")).encode() == data
    except (ValueError, RecursionError):
        return False


class _Process:
    """The program, and a directory that stands in for a bundle."""

    def __init__(self) -> None:
        directory = scratch.directory("launcher")
        self._errors = directory / "errors"
        program = directory / "launcher"
        subprocess.run(
            [
                *("cc", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
                *("-I", SOURCES, harness.HERE / "native" / "judge_config.c", "-o", program),
            ],
            check=True,
        )
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [program, directory],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={"ASAN_OPTIONS": "detect_leaks=0"},
            )
        atexit.register(self.close)

    def judge(self, data: bytes) -> bool:
        """Whether the launcher asks the interpreter about *data*. Raises OSError if it ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(len(data).to_bytes(4, "big") + data)
        self._process.stdin.flush()
        answer = self._process.stdout.read(1)
        if answer not in (b"0", b"1"):
            raise BrokenPipeError
        return answer == b"1"

    def last_words(self) -> str:
        """Return what the sanitizers said."""
        self.close()
        return self._errors.read_text(errors="replace")[:4000]

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


@functools.cache
def _process() -> _Process:
    return _Process()
