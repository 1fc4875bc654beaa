"""A page names the file that it was made from, and takes the log that lies beside."""

import hashlib
from pathlib import Path

from kvmtest.report.html.source import source


def test_the_file_is_linked_from_where_the_page_lies(tmp_path: Path) -> None:
    run = tmp_path / "a run: 1"
    run.mkdir()
    evidence = run / "evidence.json"
    evidence.write_text("{}")
    (run / "kernel.log").write_bytes(b"[ 1.0] one\n[ 2.0] \xff two\n")
    found = source(evidence, tmp_path / "pages" / "p.html")
    assert found.link == "../a%20run%3A%201/evidence.json"
    assert found.digest == hashlib.sha256(b"{}").hexdigest()
    assert found.log == ["[ 1.0] one", "[ 2.0] \N{REPLACEMENT CHARACTER} two"]
    assert source(evidence, run / "p.html").link == "evidence.json"


def test_a_log_that_can_not_be_read_is_left_out(tmp_path: Path) -> None:
    evidence = tmp_path / "evidence.json"
    evidence.write_text("{}")
    assert source(evidence, tmp_path / "p.html").log == []
    (tmp_path / "kernel.log").mkdir()
    assert source(evidence, tmp_path / "p.html").log == []
