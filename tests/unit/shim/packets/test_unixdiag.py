from __future__ import annotations

import struct

from architect.shim.packets import netlink, unixdiag


def answer(*attributes: bytes, inode: int = 77) -> bytes:
    return struct.pack("=BBBxI8s", 1, 1, 1, inode, b"\0" * 8) + b"".join(attributes)


def test_an_answer_says_who_is_at_the_other_end() -> None:
    body = answer(netlink.attribute(0, b"/run/s\0"), netlink.attribute(2, struct.pack("=I", 4242)))
    assert unixdiag.parse(body) == unixdiag.UnixSocket(inode=77, peer=4242, name="/run/s")
    assert unixdiag.parse(answer(netlink.attribute(0, b"\0some"))) == unixdiag.UnixSocket(
        inode=77, peer=0, name="@some"
    )


def test_what_is_no_answer_is_nothing() -> None:
    assert unixdiag.parse(b"\1\1\1") is None
    assert unixdiag.parse(answer(netlink.attribute(2, b"\1"))) == unixdiag.UnixSocket(77, 0, "")
