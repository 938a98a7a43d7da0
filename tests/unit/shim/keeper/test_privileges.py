"""An image may claim what its container's config.json gives, and nothing else."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from architect.core.errors import Rejected
from architect.shim.keeper.claims import Claims, Credentials, File, Filter, Task, Thread
from architect.shim.keeper.privileges import (
    CAPABILITIES,
    MOST_CHAINED,
    Allowance,
    allowance,
    check,
    differences,
)
from architect.shim.seccomp import without_io_uring

DEFAULT = 0xA80425FB
"""The 14 that engines give: CHOWN to AUDIT_WRITE, SETFCAP."""
NAMES = tuple(f"CAP_{name}" for name in CAPABILITIES)
ALLOW, ERRNO = 0x7FFF0000, 0x00050001
DENYING_ALL = struct.pack("=HBBI", 6, 0, 0, ERRNO)
ALLOWING_ALL = struct.pack("=HBBI", 6, 0, 0, ALLOW)
NOTHING: Mapping[str, int] = MappingProxyType({})
RUNTIME_DEFAULT = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"}],
}


def names(mask: int) -> list[str]:
    return [name for bit, name in enumerate(NAMES) if mask >> bit & 1]


def config(
    *,
    bounding: int = DEFAULT,
    uid: int = 0,
    gid: int | None = None,
    groups: tuple[int, ...] = (),
    no_new_privileges: bool = False,
    seccomp: dict[str, Any] | None = None,
    profile: str = "",
    has_ipc: bool = True,
    sets: Mapping[str, int] = NOTHING,
) -> dict[str, Any]:
    masks = {"bounding": bounding, "effective": bounding, "permitted": bounding, **sets}
    kinds = ("pid", "uts", "mount", "network", *(["ipc"] if has_ipc else []))
    return {
        "process": {
            "user": {"uid": uid, "gid": uid if gid is None else gid, "additionalGids": groups},
            "capabilities": {name: names(mask) for name, mask in masks.items()},
            "noNewPrivileges": no_new_privileges,
            "apparmorProfile": profile,
        },
        "linux": {
            "namespaces": [{"type": kind} for kind in kinds],
            **({"seccomp": seccomp} if seccomp else {}),
        },
    }


def allowed(**options: Any) -> Allowance:
    return allowance(config(**options), machine="x86_64")


def process(
    *, user: int = 0, group: int | None = None, mask: int = DEFAULT, **more: Any
) -> Credentials:
    found: dict[str, Any] = {"permitted": mask, "effective": mask, "bounding": mask}
    own = user if group is None else group
    return Credentials(users=(user,) * 4, groups=(own,) * 4, **{**found, **more})


def claims(*credentials: Credentials | None, **more: Any) -> Claims:
    """Return an image of one process, of which each thread has its credentials."""
    thread = {key: more.pop(key) for key in ("seccomp_mode", "filter") if key in more}
    threads = tuple(
        Thread(pid=7 + at, name="app", credentials=one, **thread)
        for at, one in enumerate(credentials)
    )
    return Claims(tasks=(Task(threads=threads),), **more)


def said(found: Claims, by: Allowance) -> str:
    return "; ".join(differences(found, by))


def test_what_the_container_gives_is_its_processes_own() -> None:
    check(claims(process()), allowed())
    check(claims(process(mask=0, bounding=DEFAULT)), allowed())
    check(claims(process(user=1000, mask=0, no_new_privileges=True)), allowed())


def test_the_difference_is_told_in_words_and_bounded() -> None:
    tampered = process(mask=DEFAULT | 1 << 21)
    with pytest.raises(Rejected) as raised:
        check(claims(*[tampered] * 3), allowed())
    assert raised.value.reason == "PrivilegesDiffer"
    first = "process 7 ('app') has CAP_SYS_ADMIN in its bounding set"
    assert f"the image claims what its container does not allow: {first};" in str(raised.value)
    assert "; and 5 more" in str(raised.value)


@pytest.mark.parametrize("name", ["bounding", "permitted", "effective", "ambient", "inheritable"])
def test_no_set_has_more_than_the_container(name: str) -> None:
    more = process(**{name: DEFAULT | 1 << 12})
    assert said(claims(more), allowed()) == f"process 7 ('app') has CAP_NET_ADMIN in its {name} set"
    assert said(claims(process(), more), allowed()).startswith("process 8 ")


def test_who_has_no_credentials_would_keep_those_of_criu() -> None:
    assert "has no credentials" in said(claims(process(), None), allowed())


def test_a_container_without_capabilities_has_none() -> None:
    spec = config()
    del spec["process"]["capabilities"]
    assert "CAP_CHOWN" in said(claims(process()), allowance(spec, machine="x86_64"))
    assert not said(claims(process(mask=0)), allowance({}, machine="x86_64"))


def test_names_that_a_newer_kernel_has_allow_its_numbers() -> None:
    newer = process(mask=1 << 45)
    assert "capability 45" in said(claims(newer), allowed())
    spec = config()
    for held in spec["process"]["capabilities"].values():
        held.append("CAP_OF_LINUX_9")
    assert not said(claims(newer), allowance(spec, machine="x86_64"))
    assert not said(claims(process(mask=0b1)), allowed(bounding=0b1))


def test_no_new_privs_is_never_lost() -> None:
    strict = allowed(no_new_privileges=True)
    assert said(claims(process()), strict) == "process 7 ('app') has no no_new_privs"
    check(claims(process(no_new_privileges=True)), strict)


def test_who_cannot_become_another_is_nobody_else() -> None:
    strict = allowed(uid=1000, groups=(1000, 2000), no_new_privileges=True)

    def one(**more: Any) -> str:
        found = process(**{"user": 1000, "mask": 0, "bounding": DEFAULT, **more})
        return said(claims(replace(found, no_new_privileges=True)), strict)

    assert not one()
    assert not one(supplementary=frozenset({1000, 2000}))
    assert "runs as user 0" in one(user=0, group=1000)
    assert "runs in group 0" in one(group=0)
    assert "runs in group 2000" in one(group=2000)
    assert "runs in group 42" in one(supplementary=frozenset({42}))
    # Its bounding set is the engine's default, and it can have none of that.
    assert "CAP_CHOWN in its permitted set" in one(permitted=1)


@pytest.mark.parametrize(
    "options",
    [
        {"uid": 1000},  # set-uid programs have an effect
        {"uid": 0, "no_new_privileges": True},
        {"uid": 1000, "no_new_privileges": True, "sets": {"ambient": 1 << 7 | 1 << 6}},
    ],
    ids=["set-uid", "root", "ambient"],
)
def test_who_can_become_another_is_anybody(options: dict[str, Any]) -> None:
    other = process(user=33, mask=0, supplementary=frozenset({5}), no_new_privileges=True)
    check(claims(other), allowed(**options))


def test_securebits_need_a_capability_unless_anybody_may_set_them() -> None:
    poor = allowed(bounding=0b1)
    check(claims(process(mask=1, securebits=1 << 4 | 1 << 8)), poor)
    assert "securebits 0x4 without CAP_SETPCAP" in said(claims(process(mask=1, securebits=4)), poor)
    check(claims(process(securebits=0x2F)), allowed())


@pytest.mark.parametrize("given", ["unconfined", "", "other"])
def test_a_profile_of_apparmor_is_kept(given: str) -> None:
    named = allowed(profile="cri-containerd.apparmor.d")
    found = process(profile="" if given == "unconfined" else given)
    assert "not 'cri-containerd.apparmor.d'" in said(claims(found), named)
    check(claims(found), allowed())
    check(claims(found), allowed(profile="unconfined"))
    for own in ("cri-containerd.apparmor.d", "cri-containerd.apparmor.d//hat"):
        check(claims(process(profile=own)), named)


def test_a_container_with_a_seccomp_profile_has_a_filter_in_every_thread() -> None:
    strict = allowed(seccomp=RUNTIME_DEFAULT)
    one = (Filter(program=DENYING_ALL),)
    check(claims(process(), process(), seccomp_mode=2, filter=0, filters=one), strict)
    check(claims(process(), seccomp_mode=1), strict)
    for found in (
        claims(process()),
        claims(process(), seccomp_mode=2, filters=one),
        claims(process(), seccomp_mode=2, filter=1, filters=one),
    ):
        assert said(found, strict) == "process 7 ('app') has no seccomp filter"
    check(claims(process()), allowed())


@pytest.mark.parametrize(("flags", "is_whole"), [(1, True), (0, False), (2, False)])
def test_threads_have_their_leaders_filter_only_if_it_is_written_so(
    flags: int, is_whole: bool
) -> None:
    leader = Thread(pid=7, name="app", credentials=process(), seccomp_mode=2, filter=1)
    other = Thread(pid=8, name="app", credentials=process())
    chain = (
        Filter(program=ALLOWING_ALL, flags=1),
        Filter(program=DENYING_ALL, flags=flags, previous=0),
    )
    found = Claims(tasks=(Task(threads=(leader, other)),), filters=chain)
    expected = "" if is_whole else "process 8 ('app') has no seccomp filter"
    assert said(found, allowed(seccomp=RUNTIME_DEFAULT)) == expected


def test_a_filter_that_lets_everything_through_is_none() -> None:
    strict = allowed(seccomp=RUNTIME_DEFAULT)
    chain = (Filter(program=DENYING_ALL), Filter(program=ALLOWING_ALL, previous=0))
    check(claims(process(), seccomp_mode=2, filter=1, filters=chain), strict)
    found = said(claims(process(), seccomp_mode=2, filter=0, filters=chain[1:]), strict)
    assert found == "process 7 ('app') has no seccomp filter"  # its previous one is itself
    alone = (Filter(program=ALLOWING_ALL),)
    found = said(claims(process(), seccomp_mode=2, filter=0, filters=alone), strict)
    assert "let through what is denied: acct, add_key, bpf" in found


def test_chains_without_an_end_are_refused_whatever_the_profile() -> None:
    loop = (Filter(program=DENYING_ALL, previous=1), Filter(program=DENYING_ALL, previous=0))
    assert "without an end" in said(
        claims(process(), seccomp_mode=2, filter=0, filters=loop), allowed()
    )
    long = tuple(
        Filter(program=DENYING_ALL, previous=at - 1 if at else None)
        for at in range(MOST_CHAINED + 1)
    )
    assert "without an end" in said(
        claims(process(), seccomp_mode=2, filter=MOST_CHAINED, filters=long), allowed()
    )


@pytest.mark.parametrize(
    "profile",
    [
        without_io_uring(None, machine="x86_64"),
        {"defaultAction": "SCMP_ACT_ALLOW"},
        {"defaultAction": "", "syscalls": []},
        {
            "defaultAction": "SCMP_ACT_LOG",
            "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ALLOW"}],
        },
    ],
)
def test_a_profile_that_denies_nothing_or_what_a_node_denies_asks_for_no_filter(
    profile: dict[str, Any],
) -> None:
    check(claims(process()), allowed(seccomp=profile))


def test_namespaces_are_the_containers() -> None:
    outside = {"pid": 1, "network": 2, "ipc": 3, "uts": 4, "mount": 5, "user": 6}

    def image(*tasks: dict[str, int] | None) -> Claims:
        thread = Thread(pid=2, name="app", credentials=process())
        made = tuple(Task(threads=(thread,), namespaces=each) for each in tasks)
        return Claims(tasks=made, outside=outside)

    own = {**outside, "ipc": 70}
    check(image(own, own, None), allowed())
    check(image(outside), allowed(has_ipc=False))
    assert said(image(own), allowed(has_ipc=False)) == "it has a namespace of its own: ipc"
    assert said(image(own, {**own, "ipc": 71}), allowed())
    for name in ("pid", "network", "uts", "mount", "user"):
        for tasks in ([{**own, name: 9}], [own, {**own, name: 9}]):
            assert said(image(*tasks), allowed()) == f"it has a namespace of its own: {name}"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/usr/bin/app",
        "/data/..data/key",
        "/proc",
        "/proc/7",
        "/proc/7/fd",
        "/proc/7/task/8/ns",
        "/proc/7/mem",
        "/proc/1/status",
        "/srv/proc/7/root/file",
        "/proc/sys/kernel/hostname",
    ],
)
def test_files_of_the_container_are_its_own(path: str) -> None:
    check(claims(process(), files=(File(path=path),)), allowed())


@pytest.mark.parametrize(
    "path",
    [
        "/proc/7/fd/5",
        "/proc/self/fd/5/../../etc/shadow",
        "/proc/self/status",
        "/proc/thread-self/root/etc",
        "/proc/7/root/etc/shadow",
        "//proc//7/./root",
        "/proc/7/cwd",
        "/proc/7/exe",
        "/proc/7/task/7/cwd/x",
        "/proc/7/ns/net",
        "/proc/7/map_files/0-1",
        "/a/../proc/7/root",
        "/..",
        "etc/passwd",
        "",
        "/proc/77/mem",
        "/proc/7/task/77/mem",
    ],
)
def test_files_that_may_lie_outside_are_refused(path: str) -> None:
    found = said(claims(process(), files=(File(path=path),)), allowed())
    assert found.startswith(repr(path)[:200])


def test_a_link_that_is_opened_as_such_leads_nowhere() -> None:
    for path in ("/proc/7/fd/5", "/proc/7/exe"):
        check(claims(process(), files=(File(path=path, is_link_itself=True),)), allowed())
        below = File(path=f"{path}/x", is_link_itself=True)
        assert said(claims(process(), files=(below,)), allowed())


@pytest.mark.parametrize(
    ("path", "is_refused"),
    [
        ("/var/run/app.sock", False),
        ("../run/app.sock", False),
        ("/srv/../run/app.sock", False),
        ("app.sock", False),
        ("/proc/self/fd/9/app.sock", True),
        ("/x/../proc/self/fd/9/app.sock", True),
        ("/proc/self/task/../fd/9/app.sock", True),
        ("../proc/7/root/app.sock", True),
    ],
)
def test_sockets_have_any_name_but_one_through_proc(path: str, is_refused: bool) -> None:
    found = said(claims(process(), files=(File(path=path, is_socket=True),)), allowed())
    assert bool(found) == is_refused


def test_raw_sockets_need_their_capability() -> None:
    check(claims(process(), raw_sockets=2), allowed())
    poor = allowed(bounding=0b1)
    assert "2 raw or packet sockets" in said(claims(process(mask=1), raw_sockets=2), poor)
    assert "AppArmor policy" in said(claims(process(), has_profiles=True), allowed())


SETUID, SETPCAP = 7, 8
ALL = (1 << len(CAPABILITIES)) - 1
masks = st.integers(0, ALL) | st.sampled_from([0, DEFAULT, ALL])
users = st.sampled_from([0, 1000, 33])


@dataclass(frozen=True)
class State:
    """A process as capabilities(7) has it."""

    users: tuple[int, int, int]
    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int
    no_new_privileges: bool

    def executed(self, *, owner: int | None, permitted: int, inheritable: int) -> State:
        """After execve(2) of a file, set-uid to *owner*, with these capabilities."""
        real, effective, _ = self.users
        is_set = owner is not None and not self.no_new_privileges
        after = owner if is_set and owner is not None else effective
        has_file_capabilities = bool(permitted or inheritable)
        if 0 in (real, after):
            permitted = inheritable = ALL
        ambient = 0 if is_set or has_file_capabilities else self.ambient
        gained = self.inheritable & inheritable | permitted & self.bounding | ambient
        if self.no_new_privileges and gained & ~self.permitted:
            gained &= self.permitted
        return replace(
            self,
            users=(real, after, after),
            permitted=gained,
            effective=gained if after == 0 or has_file_capabilities else ambient,
            ambient=ambient & gained,
        )

    def as_user(self, user: int) -> State:
        if not self.effective >> SETUID & 1 and user not in self.users:
            return self
        can_all = self.effective >> SETUID & 1
        after = (user,) * 3 if can_all else (self.users[0], user, self.users[2])
        if 0 in self.users and 0 not in after:
            return replace(self, users=after, permitted=0, effective=0, ambient=0)
        return replace(self, users=after, effective=self.effective if after[1] == 0 else 0)

    def with_less(self, mask: int) -> State:
        kept = self.permitted & mask
        return replace(self, permitted=kept, effective=kept, ambient=self.ambient & kept)

    def with_less_bounding(self, mask: int) -> State:
        return (
            replace(self, bounding=self.bounding & mask) if self.effective >> SETPCAP & 1 else self
        )

    def with_inheritable(self, mask: int) -> State:
        most = self.inheritable | self.permitted
        if self.effective >> SETPCAP & 1:
            most |= self.bounding
        return replace(self, inheritable=mask & most, ambient=self.ambient & mask & most)

    def with_ambient(self, mask: int) -> State:
        return replace(self, ambient=mask & self.permitted & self.inheritable)


steps = st.one_of(
    st.tuples(
        st.just("executed"),
        st.fixed_dictionaries(
            {"owner": st.none() | users, "permitted": masks, "inheritable": masks}
        ),
    ),
    st.tuples(st.just("as_user"), st.fixed_dictionaries({"user": users})),
    *(
        st.tuples(st.just(name), st.fixed_dictionaries({"mask": masks}))
        for name in ("with_less", "with_less_bounding", "with_inheritable", "with_ambient")
    ),
)


@settings(max_examples=300)
@given(
    sets=st.fixed_dictionaries(
        dict.fromkeys(("bounding", "permitted", "inheritable", "ambient"), masks)
    ),
    uid=users,
    no_new_privileges=st.booleans(),
    steps=st.lists(steps, max_size=8),
)
def test_whatever_a_process_may_become_is_never_refused(
    sets: dict[str, int], uid: int, no_new_privileges: bool, steps: list[Any]
) -> None:
    spec = config(uid=uid, no_new_privileges=no_new_privileges, sets={**sets, "effective": 0})
    begun = State(
        users=(uid,) * 3,
        inheritable=sets["inheritable"],
        permitted=sets["permitted"],
        effective=sets["permitted"],
        bounding=sets["bounding"],
        ambient=sets["ambient"] & sets["permitted"] & sets["inheritable"],
        no_new_privileges=no_new_privileges,
    )
    # The lower runtime executes our init, which is mounted nosuid.
    now = begun.executed(owner=None, permitted=0, inheritable=0)
    for name, options in steps:
        now = getattr(now, name)(**options)
        found = Credentials(
            users=(*now.users, now.users[1]),
            groups=(uid,) * 4,
            inheritable=now.inheritable,
            permitted=now.permitted,
            effective=now.effective,
            bounding=now.bounding,
            ambient=now.ambient,
            no_new_privileges=now.no_new_privileges,
        )
        check(claims(found), allowance(spec, machine="x86_64"))


@given(bounding=masks, bit=st.integers(0, len(CAPABILITIES) - 1), uid=users, strict=st.booleans())
def test_a_capability_that_the_container_has_not_is_always_refused(
    bounding: int, bit: int, uid: int, strict: bool
) -> None:
    by = allowed(bounding=bounding & ~(1 << bit), uid=uid, no_new_privileges=strict)
    for name in ("inheritable", "permitted", "effective", "bounding", "ambient"):
        own = process(user=uid, mask=0, no_new_privileges=strict, **{name: 1 << bit})
        assert NAMES[bit] in said(claims(own), by)
