"""``docs/reliability.md`` says what the tests show, and where."""

from __future__ import annotations

from pathlib import Path

from support import truthtable

CHECKOUT = Path(__file__).parents[2]
PAGE = (CHECKOUT / "docs/reliability.md").read_text(encoding="utf-8")


def test_the_table_is_what_the_tests_say_of_themselves() -> None:
    lines = PAGE.splitlines()
    begin = lines.index(truthtable.HEAD[0])
    end = next(n for n in range(begin, len(lines) + 1) if n == len(lines) or not lines[n])
    assert "\n".join(lines[begin:end]) == truthtable.table()


def test_every_test_of_the_suite_says_what_it_shows() -> None:
    assert truthtable.unsaid() == []
    assert len(truthtable.rows()) > 40


def test_tests_that_are_named_exist() -> None:
    for row in truthtable.rows():
        file, _, name = row.test.partition("::")
        assert f"def {name}(" in (truthtable.TESTS / file).read_text(encoding="utf-8"), row.test
