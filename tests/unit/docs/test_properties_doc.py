import runpy
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]


def test_the_properties_page_is_what_the_table_makes() -> None:
    tool = runpy.run_path(str(PROJECT / "tools" / "properties_doc.py"))
    assert tool["TARGET"].read_text() == tool["document"]()


def test_the_readme_marks_as_decided_exactly_the_properties_with_a_check() -> None:
    from kvmtest.properties import PROPERTIES

    readme = (PROJECT / "README.md").read_text()
    machines = readme.partition("| machine |")[2].partition("## Verdicts")[0]
    bold = {p.id for p in PROPERTIES if f"**{p.id}**" in machines}
    assert bold == {p.id for p in PROPERTIES if p.has_check}
