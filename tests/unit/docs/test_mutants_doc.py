import runpy
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]


def test_the_mutants_page_is_what_the_table_makes() -> None:
    tool = runpy.run_path(str(PROJECT / "tools" / "mutants_doc.py"))
    assert tool["TARGET"].read_text() == tool["document"]()
