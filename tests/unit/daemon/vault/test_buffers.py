"""Memory for shards is used again, by so many at once and no more."""

from __future__ import annotations

import threading

from architect.daemon.vault.buffers import Buffers


def test_a_buffer_is_used_again_until_its_memory_is_let_go() -> None:
    buffers = Buffers(2, 8)
    with buffers.lend() as first:
        first[:] = b"8 bytes."
        with buffers.lend() as second:
            assert second is not first
    with buffers.lend() as again:
        assert again is first
        buffers.release()
        again[0] = 0  # whoever has one keeps it
        with buffers.lend() as fresh:
            assert fresh == bytes(8)
    buffers.release()
    with buffers.lend() as fresh:
        assert fresh == bytes(8)


def test_who_comes_when_all_are_lent_waits_for_one() -> None:
    buffers, got = Buffers(1, 8), threading.Event()

    def take() -> None:
        with buffers.lend():
            got.set()

    with buffers.lend():
        waiting = threading.Thread(target=take)
        waiting.start()
        assert not got.wait(0.05)
    waiting.join(20)
    assert got.is_set()
