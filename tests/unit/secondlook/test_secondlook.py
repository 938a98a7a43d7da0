"""What fails is looked at again, and neither hides a failure nor makes one."""

from __future__ import annotations

from pathlib import Path

import pytest

import secondlook

TESTS = """
import pathlib, pytest

@pytest.mark.parametrize("number", range({tests}))
def test_one(number):
    runs = pathlib.Path(f"runs-{{number}}")
    runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
    assert number >= {failing} or len(runs.read_text()) > {times}
"""

WHERE = """

@pytest.fixture(autouse=True)
def where():
    with open("processes", "a") as stream:
        stream.write(__import__("os").environ.get("PYTEST_XDIST_WORKER", "alone") + chr(10))
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ARCHITECT_SECOND_LOOK", raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    Path("pytest.ini").write_text("[pytest]\n")
    return tmp_path


def write(*, tests: int = 5, failing: int, times: int) -> None:
    """*failing* of *tests* fail so many *times*."""
    Path("test_it.py").write_text(TESTS.format(tests=tests, failing=failing, times=times))


def look() -> int:
    return secondlook.main(["--of", "a tier", "--", "-q", "test_it.py"])


def runs(number: int) -> int:
    return len(Path(f"runs-{number}").read_text())


def test_what_passes_alone_is_unstable(capsys: pytest.CaptureFixture[str]) -> None:
    write(failing=2, times=1)
    assert look() == 0
    assert secondlook.unstable() == ["test_it.py::test_one[0]", "test_it.py::test_one[1]"]
    assert [runs(number) for number in range(5)] == [2, 2, 1, 1, 1]
    capsys.readouterr()
    assert secondlook.main(["--tell"]) == 0
    assert capsys.readouterr().out.count("UNSTABLE: test_it.py::test_one[") == 2


def test_what_failed_beside_others_is_looked_at_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # these tests have one, too
    write(failing=2, times=1)
    with Path("test_it.py").open("a") as stream:
        stream.write(WHERE)
    words = ["-p", "xdist.plugin", "--numprocesses=2", "-q", "test_it.py"]
    assert secondlook.main(["--of", "a tier", "--", *words]) == 0
    assert secondlook.unstable() == [f"test_it.py::test_one[{number}]" for number in (0, 1)]
    first, again = (lines := Path("processes").read_text().split())[:5], lines[5:]
    assert all(process.startswith("gw") for process in first)
    assert again == ["alone", "alone"]


def test_what_fails_again_has_failed() -> None:
    write(failing=1, times=2)
    assert look() == secondlook.FAILED
    assert secondlook.unstable() == []


def test_many_failures_are_not_looked_at_again() -> None:
    write(failing=secondlook.MOST + 1, times=1)
    assert look() == secondlook.FAILED
    assert runs(0) == 1


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHITECT_SECOND_LOOK", "no")
    write(failing=1, times=1)
    assert look() == secondlook.FAILED
    assert runs(0) == 1


@pytest.mark.parametrize("words", [["-x"], ["-qx"], ["--maxfail=2"]])
def test_what_ends_with_its_first_failure_is_not_looked_at_again(words: list[str]) -> None:
    write(failing=2, times=1)
    argv = ["--of", "a tier", "--", "-q", *words, "test_it.py"]
    assert secondlook.main(argv) == secondlook.FAILED
    assert runs(0) == 1
    assert not Path("runs-4").exists()


def test_words_that_only_look_alike_change_nothing() -> None:
    for words in (["--numprocesses=3"], ["-k", "text"], ["-m", "not concurrent"], ["--exclude"]):
        assert not secondlook.ends_early([*words, "tests/kernel"])


def test_what_passes_is_run_once() -> None:
    write(failing=0, times=0)
    assert look() == 0
    assert runs(0) == 1


@pytest.mark.parametrize(("text", "status"), [("", 5), ("import nothing_such", 2)])
def test_other_ends_of_pytest_are_handed_on(text: str, status: int) -> None:
    Path("test_it.py").write_text(text)
    assert look() == status


def test_a_list_is_begun_anew() -> None:
    write(failing=1, times=1)
    assert look() == 0
    assert secondlook.main(["--forget"]) == 0
    assert secondlook.unstable() == []


def test_a_later_run_adds_to_the_list() -> None:
    write(failing=1, times=1)
    assert look() == 0
    Path("runs-0").unlink()
    Path("test_other.py").write_text(TESTS.format(tests=1, failing=1, times=1))
    assert secondlook.main(["--of", "another", "--", "-q", "test_other.py"]) == 0
    assert secondlook.unstable() == ["test_it.py::test_one[0]", "test_other.py::test_one[0]"]
