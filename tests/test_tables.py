"""The documentation's tables are what the committed results say."""

from __future__ import annotations

from benchmarks import markdown


def test_tables_are_what_their_files_say() -> None:
    assert not markdown.stale_documents(), "run python benchmarks/markdown.py"
    marked = [path for path in markdown.documents() if "<!-- table: " in path.read_text(encoding="utf-8")]
    assert {path.name for path in marked} >= {"README.md", "results.md"}


def test_a_changed_figure_is_noticed() -> None:
    text = (markdown.ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    table = next(markdown.TABLE.finditer(text))
    wrong = text.replace(table["table"], table["table"].replace("100.0%", "99.0%", 1))
    assert wrong != text and markdown.with_tables(wrong) == text
