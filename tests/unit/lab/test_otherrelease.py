from __future__ import annotations

from pathlib import Path

import pytest

from lab import dockerfiles, errors, otherrelease
from lab.cache import Cache
from lab.otherrelease import Edit, OtherRelease
from support import releases


@pytest.mark.parametrize("release", [releases.NEXT, releases.FAR], ids=lambda r: r.version)
def test_the_changes_fit_this_checkout_and_nothing_else_is_changed(
    release: OtherRelease, tmp_path: Path
) -> None:
    made = otherrelease.sources(Cache(tmp_path), release)
    assert dockerfiles.version(made) == release.version != dockerfiles.version()
    changed = {
        str(relative)
        for relative in dockerfiles.sources(dockerfiles.CHECKOUT, otherrelease.SOURCES)
        if (made / relative).read_bytes() != (dockerfiles.CHECKOUT / relative).read_bytes()
    }
    assert changed == {edit.file for edit in release.all_edits}
    for file in changed:
        if file.endswith(".py"):
            compile((made / file).read_text(), file, "exec")


@pytest.mark.parametrize("text", ["nothing", "one two one"])
def test_a_change_that_does_not_fit_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(errors.LabError, match="times what is to be changed"):
        otherrelease.apply(tmp_path, [Edit("file", "one", "other")])
