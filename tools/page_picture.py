"""Takes the README's picture of a report page: ``python tools/page_picture.py [FILE]``.

The page is that of a run in tests/recorded, as ``kvmtest report --html`` makes it; headless
Chromium draws its first screen into docs/report-page.png, or FILE.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
EVIDENCE = PROJECT / "tests" / "recorded" / "intel-lab-nested.json"
PICTURE = PROJECT / "docs" / "report-page.png"
WIDTH, HEIGHT = 1000, 750
#: Seconds; it takes two where nothing else runs.
DEADLINE = 180


def main(picture: Path = PICTURE) -> str | None:
    """Take the picture; return what is missing for that."""
    chromium = shutil.which("chromium")
    if not chromium:
        return "needs chromium; on Debian: apt-get install --no-install-recommends chromium"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        page = folder / "page.html"
        report = [sys.executable, "-m", "kvmtest", "report", str(EVIDENCE), "--html", str(page)]
        subprocess.run(report, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
        words = [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--disable-lcd-text",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}",
            f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={picture.absolute()}", page.as_uri(),
        ]  # fmt: skip
        subprocess.run(words, check=True, capture_output=True, timeout=DEADLINE)
    return None


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
