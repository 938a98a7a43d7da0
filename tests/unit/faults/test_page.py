"""The docs' sections are written from the runs, and leave the others alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from faults import matrix, page, results
from faults.matrix import CLUSTER_FAULTS, FAULTS, STEPS
from faults.results import GOES_ON, Result

PAGE = "# Reliability\n\n## Every fault\n\nold\n\n## Other\n\nkept\n"


def test_a_section_is_replaced_and_others_stay() -> None:
    written = page.with_section(PAGE, "Every fault", "new\n")
    assert written == "# Reliability\n\n## Every fault\n\nnew\n\n## Other\n\nkept\n"
    assert page.with_section(written, "Every fault", "new") == written


def test_a_section_is_added() -> None:
    assert page.with_section("# Reliability\n", "Soak", "x") == "# Reliability\n\n## Soak\n\nx\n"


def test_every_step_is_explained() -> None:
    assert set(page.STEP_TEXTS) == set(STEPS)


def test_what_was_run_stands_on_the_page(tmp_path: Path) -> None:
    result = Result(fault="keeper", step="dump", outcome=GOES_ON, seconds=1.0)
    value = results.summary([result], stage="node", conditions="a machine")
    results.write(value, tmp_path / "faults.json")
    target = tmp_path / "page.md"
    page.main(["--build", str(tmp_path), "--page", str(target)])
    text = target.read_text()
    assert "pairs were tried and 1 survived, with 0 leaks" in text
    assert "Conditions: a machine." in text
    assert "Not run yet." in text
    assert "## Soak" in text


# What no run has to show: the page says it as the code does, to the letter.

DOCS = page.PAGE.read_text(encoding="utf-8")
SIGNS = {"", "✗", *results.SIGNS.values()}
PARTS = {"### On a node": FAULTS, "### In the cluster": CLUSTER_FAULTS}


def part(title: str) -> str:
    """Return what stands below a title of the section on faults."""
    return DOCS.split(f"\n{title}\n")[1].split("\n#")[0]


def test_the_docs_say_how_it_is_done() -> None:
    written = DOCS.split("\n### On a node\n")[0]
    assert written.endswith(page.every_fault(None, None).split("\n\n### On a node")[0] + "\n")
    assert f"\n{page.SOAK_HOW}\n" in DOCS
    assert DOCS.endswith(f"\n{page.SOAK_MEANING}")


@pytest.mark.parametrize("title", PARTS)
def test_the_docs_say_of_every_fault_what_the_matrix_says(title: str) -> None:
    lines = [line for line in part(title).splitlines() if line.startswith("- ")]
    assert lines == results.reasons(PARTS[title]).splitlines()


@pytest.mark.parametrize("title", PARTS)
def test_the_docs_count_the_pairs_that_the_matrix_has(title: str) -> None:
    text = part(title).strip()
    planned = len(list(matrix.tried(faults=PARTS[title])))
    told = re.match(r"\d+ of (\d+) pairs were tried", text)
    assert text.startswith("Not run yet.") if told is None else int(told[1]) == planned


@pytest.mark.parametrize("title", PARTS)
def test_the_docs_have_a_row_for_every_fault_with_a_cell_for_every_step(title: str) -> None:
    rows = [line for line in part(title).splitlines() if line.startswith("| ")]
    empty = results.table([], faults=PARTS[title]).splitlines()
    assert rows[:2] == empty[:2]
    assert len(rows) == len(empty)
    for row, planned in zip(rows[2:], empty[2:], strict=True):
        cells, wanted = ([c.strip() for c in line.split("|")] for line in (row, planned))
        assert [cells[0], cells[1], cells[-1]] == [wanted[0], wanted[1], wanted[-1]]
        assert [c == "–" for c in cells] == [c == "–" for c in wanted], f"of {wanted[1]}"
        assert set(cells[2:-1]) <= {"–", *SIGNS}, f"of {wanted[1]}"


def test_the_figures_of_an_earlier_soak_stay(tmp_path: Path) -> None:
    target = tmp_path / "page.md"
    target.write_text(PAGE + "\n## Soak\n\n1000 cycles\n")
    page.main(["--build", str(tmp_path), "--page", str(target)])
    assert "1000 cycles" in target.read_text()
    assert "\nold\n" not in target.read_text()
