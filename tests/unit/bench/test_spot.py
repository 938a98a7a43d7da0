"""How long a node's pods take into the object store: what the store's disk says of it."""

from __future__ import annotations

from bench import plan, spot


def test_a_manifest_is_its_pods_by_the_directory_it_lies_in() -> None:
    said = (
        "12.5 /objects/c/ns/u1/manifest.json\n"
        "14.25 /objects/c/ns/u1/manifest.json\n"
        "13.0 /objects/c/ns/u2/manifest.json\n"
        "99.0 /objects/c/ns/stranger/manifest.json\n"
    )
    assert spot.committed(said, {"u1", "u2", "u3"}) == {"u1": 14.25, "u2": 13.0}
    assert spot.committed("", {"u1"}) == {}


def test_twenty_pods_of_four_gibibytes() -> None:
    sizes = plan.SPOT.sizes
    assert sum(sizes.values()) == 20
    assert sum(size * count for size, count in sizes.items()) == 4096
    assert [scenario.name for scenario in plan.select(["spot"])] == ["spot"]
