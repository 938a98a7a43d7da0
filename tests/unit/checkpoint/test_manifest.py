"""The manifest: one form, everything checked, nothing believed."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from architect.checkpoint import manifest
from architect.checkpoint.manifest import (
    SEGMENT_BYTES,
    Manifest,
    Piece,
    from_bytes,
    is_piece_name,
    make,
    to_bytes,
)
from architect.core.errors import FormatError
from architect.daemon.checkpoint import contents
from architect.kube.checkpoints import Gvisor
from support.checkpointdirs import about, fill
from support.jsonvalues import JSON, paths, replace

SHA = "c" * 64


def piece(name: str, size: int = 1, mode: int = 0o600) -> Piece:
    return Piece(name=name, size=size, mode=mode, hashes=(SHA,) * manifest.segments_of(size))


PIECES = (piece("app/image/pages-1.img", 3 * SEGMENT_BYTES + 1), piece("app/layer.tar"))


def good() -> Manifest:
    return make(about(), PIECES)


def value() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(to_bytes(good()))
    return read


def canonical(changed: dict[str, Any]) -> bytes:
    return json.dumps(changed, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def test_it_comes_back_as_it_was() -> None:
    one = good()
    raw = to_bytes(one)
    assert from_bytes(raw) == one
    assert to_bytes(from_bytes(raw)) == raw
    assert raw == canonical(json.loads(raw))
    assert one.total_bytes == 3 * SEGMENT_BYTES + 2


def test_pieces_are_put_in_order() -> None:
    assert to_bytes(make(about(), reversed(PIECES))) == to_bytes(good())


def test_optional_parts_may_be_absent() -> None:
    bare = dataclasses.replace(
        about(),
        owner=None,
        containers={"app": dataclasses.replace(about().containers["app"], layer=None,
                                               image_digest="")},
    )  # fmt: skip
    read = from_bytes(to_bytes(make(bare, PIECES)))
    assert read.about.owner is None
    assert read.about.containers["app"].layer is None


NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.+=@,-]{0,20}(/[A-Za-z0-9_][a-z.-]{0,9}){0,3}",
                      fullmatch=True)  # fmt: skip


@given(st.dictionaries(NAMES, st.tuples(st.integers(0, 2**40), st.sampled_from(manifest.MODES))))
def test_any_manifest_that_can_be_made_comes_back(found: dict[str, tuple[int, int]]) -> None:
    names = {*found, "app/image/x", "app/layer.tar"}
    assume(all(is_piece_name(n) for n in names))
    assume(not any(a.startswith(b + "/") for a in names for b in names))
    assume(sum(size for size, _ in found.values()) < 2**40)
    pieces = [piece("app/image/x"), piece("app/layer.tar")]
    pieces += [
        piece(n, size % (10 * SEGMENT_BYTES), mode)
        for n, (size, mode) in found.items()
        if n not in ("app/image/x", "app/layer.tar")
    ]
    one = make(about(), pieces)
    assert from_bytes(to_bytes(one)) == one


@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_fail_otherwise(raw: bytes) -> None:
    with pytest.raises(FormatError):
        from_bytes(raw)


@given(st.sampled_from(paths(value())), JSON)
def test_one_value_replaced_by_anything_is_refused_or_read_back_the_same(
    path: tuple[Any, ...], other: Any
) -> None:
    changed = value()
    replace(changed, path, other)
    try:
        raw = canonical(changed)
        read = from_bytes(raw)
    except (FormatError, UnicodeEncodeError):
        return
    assert to_bytes(read) == raw


@given(st.integers(0, len(to_bytes(good())) - 1), st.integers(0, 255))
def test_one_byte_changed_is_refused_or_names_another_checkpoint(at: int, byte: int) -> None:
    raw = bytearray(to_bytes(good()))
    assume(raw[at] != byte)
    raw[at] = byte
    try:
        read = from_bytes(bytes(raw))
    except FormatError:
        return
    assert read != good()


Change = Callable[[dict[str, Any]], Any]


def put(*path: Any) -> Change:
    *way, new = path
    return lambda value: replace(value, tuple(way), new)


FIRST = ("pieces", 0)
EXTRA = {"name": "zz", "size": 0, "mode": 0o600, "blake3": []}

HOSTILE: dict[str, tuple[Change, str]] = {
    "a newer version": (put("version", 3), "version 3 instead of 2"),
    "an older version": (put("version", 1), "version 1 instead of 2"),
    "no version": (lambda v: v.pop("version"), "version None"),
    "a true version": (put("version", True), "version True"),
    "an unknown key": (put("privileged", True), r"unknown keys: \['privileged'\]"),
    "an unknown key below": (put("pod", "uid2", "x"), r"manifest.pod has unknown keys"),
    "an unknown key of a piece": (put(*FIRST, "link", "/etc"), "unknown keys"),
    "an unknown key of a container": (
        put("containers", "app", "privileged", True), "unknown keys"),
    "a missing key": (lambda v: v.pop("node"), "manifest.node is missing"),
    "other segments": (put("segmentBytes", 1), "segmentBytes"),
    "a name with ..": (put(*FIRST, "name", "app/../../etc/passwd"), "not the name of a piece"),
    "the parent": (put(*FIRST, "name", ".."), "not the name of a piece"),
    "an absolute name": (put(*FIRST, "name", "/etc/passwd"), "not the name of a piece"),
    "a NUL": (put(*FIRST, "name", "app/image/x\0"), "not the name of a piece"),
    "a newline": (put(*FIRST, "name", "app/image/x\n"), "not the name of a piece"),
    "an empty name": (put(*FIRST, "name", ""), "not the name of a piece"),
    "an empty component": (put(*FIRST, "name", "app//x"), "not the name of a piece"),
    "a trailing slash": (put(*FIRST, "name", "app/image/"), "not the name of a piece"),
    "a hidden file": (put(*FIRST, "name", "app/image/.x"), "not the name of a piece"),
    "a backslash": (put(*FIRST, "name", "app\\image\\x"), "not the name of a piece"),
    "another alphabet": (put(*FIRST, "name", "app/image/ｘ"), "not the name of a piece"),
    "a surrogate": (put(*FIRST, "name", "app/image/\udcff"), "not the name of a piece"),
    "a long component": (put(*FIRST, "name", "app/image/" + "x" * 256),
                         "not the name of a piece"),
    "a long name": (put(*FIRST, "name", "app/image/" + "x/" * 600 + "x"),
                    "not the name of a piece"),
    "the manifest itself": (put(*FIRST, "name", "manifest.json"), "not the name of a piece"),
    "below the manifest": (
        lambda v: v["pieces"].append({**EXTRA, "name": "manifest.json/x"}), "own name"),
    "a name twice": (lambda v: v["pieces"].append(v["pieces"][-1]), "two of one name"),
    "another order": (lambda v: v["pieces"].reverse(), "order of their names"),
    "a file and a directory": (
        lambda v: v["pieces"].insert(0, {**EXTRA, "name": "app"}), "a file and a directory"),
    "a negative size": (put(*FIRST, "size", -1), "size"),
    "an absurd size": (put(*FIRST, "size", 2**60), "size"),
    "a size of 5000 digits": (put(*FIRST, "size", 10**4000), "size"),
    "a size as text": (put(*FIRST, "size", "1"), "size"),
    "a size as a float": (put(*FIRST, "size", 1.0), "size"),
    "a size of true": (put(*FIRST, "size", True), "size"),
    "too few hashes": (put(*FIRST, "blake3", [SHA]), "1 hashes for"),
    "too many hashes": (put(*FIRST, "blake3", [SHA] * 5), "5 entries, more than 4"),
    "a short hash": (put(*FIRST, "blake3", ["c" * 63] * 4), "not of the form"),
    "an upper-case hash": (put(*FIRST, "blake3", ["C" * 64] * 4), "not of the form"),
    "a set-uid mode": (put(*FIRST, "mode", 0o4700), "is not one of"),
    "a mode for all": (put(*FIRST, "mode", 0o644), "is not one of"),
    "a true mode": (put(*FIRST, "mode", True), "is not one of"),
    "too many pieces": (
        put("pieces", [{**EXTRA, "name": f"p{n}"} for n in range(20_001)]), "more than 20000"),
    "too much in all": (
        put("pieces", [{"name": f"p{n}", "size": 2**40, "mode": 0o600, "blake3": [SHA] * 2**14}
                       for n in range(3)]), "in all, more than"),
    "no containers": (put("containers", {}), "1 to 100 containers"),
    "too many containers": (put("containers", {f"c{n}": {} for n in range(101)}),
                            "1 to 100 containers"),
    "a container's name": (put("containers", {"../x": {}}), "not a container's name"),
    "a tree that is not there": (put("containers", "app", "tree", "other"), "holds no piece"),
    "a tree outside": (put("containers", "app", "tree", "../.."), "not the name of a piece"),
    "a layer that is not there": (put("containers", "app", "layer", "other.tar"), "no piece"),
    "an image by tag": (put("containers", "app", "imageDigest", "nginx:1"), "not of the form"),
    "an id with a slash": (put("id", "a/b"), "not of the form"),
    "an id of dots": (put("id", ".."), "not of the form"),
    "a long id": (put("id", "x" * 129), "not of the form"),
    "a namespace": (put("namespace", "../other"), "not of the form"),
    "an empty uid": (put("pod", "uid", ""), "no text of 1"),
    "a control character": (put("node", "a\u001b[2J"), "no text of"),
    "a time without zone": (put("created", "2030-01-01T00:00:00"), "is not a time"),
    "a day that is none": (put("created", "2030-02-30T00:00:00Z"), "is not a time"),
    "an owner's ordinal": (put("identity", "owner", "ordinal", -1), "ordinal"),
    "a CPU feature": (put("requirements", "cpuFeatures", [1]), "no text"),
    "a format of 0": (put("requirements", "formatVersion", 0), "formatVersion"),
    "a list for an object": (put("pod", []), "manifest.pod is no object"),
    "an object for a list": (put("pieces", {}), "manifest.pieces is no list"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_manifest_is_refused_by_name(what: str) -> None:
    change, said = HOSTILE[what]
    changed = value()
    change(changed)
    with pytest.raises(FormatError, match=said) as caught:
        from_bytes(canonical(changed))
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b" " + to_bytes(good()), "one form"),
        (to_bytes(good()).rstrip(), "one form"),
        (json.dumps(value(), indent=1).encode(), "one form"),
        (to_bytes(good()).replace(b'{"containers"', b'{"node":"evil","containers"'), "one form"),
        (b"[]", "no object"),
        (b'{"version":1', "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b'{"version":' + b"1" * 5000 + b"}", "not JSON"),
        (b"x" * (manifest.MAX_BYTES + 1), "at most"),
        ("{\"version\":\"ä\"}".encode(), "not JSON"),
    ],
    ids=["space", "no newline", "indented", "key twice", "list", "cut", "deep", "number", "large",
         "not ASCII"],
)  # fmt: skip
def test_another_form_is_refused(raw: bytes, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        from_bytes(raw)


def test_a_checkpoint_on_disk_is_hashed_and_compared(tmp_path: Path) -> None:
    made = fill(tmp_path / "c")
    assert contents.read(tmp_path / "c") == made
    contents.verify(tmp_path / "c", made)
    assert [p.name for p in made.pieces] == sorted(p.name for p in made.pieces)
    by_name = {p.name: p for p in made.pieces}
    assert by_name["app/image/empty.img"].hashes == ()
    assert (tmp_path / "c/manifest.json").stat().st_mode & 0o777 == 0o600


def test_a_large_file_is_hashed_in_segments(tmp_path: Path) -> None:
    fill(tmp_path / "c")
    large = tmp_path / "c/app/image/pages-2.img"
    with open(large, "wb") as file:
        file.write(b"start")
        file.seek(2 * SEGMENT_BYTES)
        file.write(b"end")
    made = contents.build(tmp_path / "c", about())
    found = next(p for p in made.pieces if p.name.endswith("pages-2.img"))
    assert len(found.hashes) == 3
    assert found.hashes[2] == contents.hash_range(large, start=2 * SEGMENT_BYTES, length=3)
    contents.verify(tmp_path / "c", made)
    with open(large, "r+b") as file:
        file.seek(SEGMENT_BYTES + 7)
        file.write(b"x")
    with pytest.raises(FormatError, match=rf"damaged within \d+ bytes from {SEGMENT_BYTES}"):
        contents.verify(tmp_path / "c", made)


Spoil = Callable[[Path], object]


def _linked(checkpoint: Path) -> None:
    (checkpoint / "app/layer.tar").unlink()
    (checkpoint / "app/layer.tar").symlink_to("/etc/passwd")


SPOILT: dict[str, tuple[Spoil, str]] = {
    "a byte": (lambda c: (c / "app/layer.tar").write_bytes(b"Layer" + b"layer" * 999), "damaged"),
    "shorter": (lambda c: (c / "app/layer.tar").write_bytes(b"x"), "1 bytes instead of 5000"),
    "longer": (lambda c: (c / "app/layer.tar").write_bytes(b"x" * 5001), "5001 bytes instead"),
    "missing": (lambda c: (c / "app/layer.tar").unlink(), "is missing"),
    "more": (lambda c: (c / "app/more").write_bytes(b""), "not in the manifest"),
    "mode": (lambda c: (c / "app/layer.tar").chmod(0o700), "mode 700 instead of 600"),
    "link": (_linked, "neither a file"),
    "name": (lambda c: (c / "app/ä").write_bytes(b""), "not the name of a piece"),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILT)
def test_every_difference_on_disk_is_named(tmp_path: Path, what: str) -> None:
    made = fill(tmp_path)
    spoil, said = SPOILT[what]
    spoil(tmp_path)
    with pytest.raises(FormatError, match=said):
        contents.verify(tmp_path, made)


@pytest.mark.parametrize("what", ["link", "name", "fifo", "linked directory"])
def test_what_no_manifest_may_name_is_not_packed(tmp_path: Path, what: str) -> None:
    fill(tmp_path)
    if what == "link":
        (tmp_path / "app/x").symlink_to("/etc/passwd")
    elif what == "linked directory":
        (tmp_path / "app/x").symlink_to("/etc")
    elif what == "fifo":
        os.mkfifo(tmp_path / "app/x")
    else:
        (tmp_path / "app/.x").write_bytes(b"")
    with pytest.raises(FormatError):
        contents.build(tmp_path, about())


def test_permissions_of_others_are_not_kept(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "app/layer.tar").chmod(0o755)
    made = contents.build(tmp_path, about())
    assert next(p.mode for p in made.pieces if p.name == "app/layer.tar") == 0o700


def test_a_directory_without_a_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        contents.read(tmp_path)


def test_a_manifest_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    with open(tmp_path / "manifest.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FormatError, match="at most"):
        contents.read(tmp_path)


def sandboxed() -> manifest.About:
    """What a manifest says of a pod of gVisor."""
    container = dataclasses.replace(about().containers["app"], init_sha256=None, layer=None)
    needs = dataclasses.replace(
        about().requirements, criu="", gvisor=Gvisor(version="v1", platform="systrap")
    )
    return dataclasses.replace(about(), containers={"app": container}, requirements=needs)


def test_one_of_gvisor_comes_back_and_others_have_no_word_of_it() -> None:
    one = make(sandboxed(), PIECES)
    assert from_bytes(to_bytes(one)) == one
    assert b"gvisor" not in to_bytes(good())


@pytest.mark.parametrize("init", [None, "b" * 64])
def test_gvisor_alone_has_no_init(init: str | None) -> None:
    whose = about() if init is None else sandboxed()
    container = dataclasses.replace(whose.containers["app"], init_sha256=init)
    with pytest.raises(FormatError, match="gVisor alone has none"):
        make(dataclasses.replace(whose, containers={"app": container}), PIECES)
