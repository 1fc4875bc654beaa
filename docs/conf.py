"""The manual: ``make docs`` makes web pages and the man page of it.

Its parts are the lists in index.md, not folders: evidence, messages and mails name pages by their
paths in docs/, so that these stay.
"""

import re
import runpy
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

import kvmtest

project = "kvmtest"
release = version = kvmtest.__version__
language = "en"

extensions = ["myst_parser"]
myst_enable_extensions = ["deflist"]
nitpicky = True
# Two dashes begin an option.
smartquotes = False
myst_heading_anchors = 3

html_theme = "furo"
html_title = "kvmtest"
html_show_sphinx = False

man_pages = [("command-line", "kvmtest", "prove whether KVM keeps FREEZE_IN_SMM in force", "", 1)]

linkcheck_timeout = 20
linkcheck_retries = 2


ROOT = Path(__file__).resolve().parent.parent
#: Pages of the manual that stand at the top of the checkout, where a forge looks for them.
AT_THE_TOP = {name: f"{name.upper()}.md" for name in ("contributing", "changelog", "security")}


def _add_commands(app: Sphinx, page: str, source: list[str]) -> None:
    """Add to the page of the command line what the parsers know."""
    if page == "command-line":
        tool = runpy.run_path(str(ROOT / "tools/command_line_doc.py"))
        source[0] = source[0].replace("<!-- commands -->", tool["document"]())


def _take_from_the_top(app: Sphinx, page: str, source: list[str]) -> None:
    """Put a page of the checkout's top in the place of the one that names it."""
    if name := AT_THE_TOP.get(page):
        text = (ROOT / name).read_text()
        source[0] = re.sub(r"\]\((?!\w+:|#)([^)]+)\)", lambda link: f"]({_seen(link[1])})", text)


def _seen(target: str) -> str:
    """Return the target of a link at the checkout's top as it is seen from docs/."""
    pages = {name: f"{page}.md" for page, name in AT_THE_TOP.items()}
    return pages.get(target) or f"../{target}".replace("../docs/", "")


def _unlink_folders(app: Sphinx, document: nodes.document) -> None:
    """Show a link to a folder of the source tree as its text: there is no page to lead to."""
    folder = Path(app.env.doc2path(app.env.docname)).parent
    for link in list(document.findall(pending_xref)):
        if link["reftype"] == "myst" and (folder / link["reftarget"]).is_dir():
            link.replace_self(link.children)


def _made_anew(app: Sphinx, *_: object) -> list[str]:
    """Name the pages that depend on more than their own text."""
    return ["command-line", *AT_THE_TOP]


def setup(app: Sphinx) -> dict[str, Any]:
    """Add what Sphinx and MyST lack."""
    app.connect("env-get-outdated", _made_anew)
    app.connect("source-read", _add_commands)
    app.connect("source-read", _take_from_the_top)
    app.connect("doctree-read", _unlink_folders)
    return {"parallel_read_safe": True}
