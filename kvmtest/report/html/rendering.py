"""Rendering
=========

The templates of the pages, with Jinja2, which is imported only when a page is made.
"""

from functools import cache
from pathlib import Path
from typing import Any

from kvmtest.errors import printable
from kvmtest.optional_libraries import library
from kvmtest.report.sentence import number_of

__all__ = ["render"]

_FOLDER = Path(__file__).with_name("templates")


def render(template: str, **values: Any) -> str:
    """Return a template filled with values; all text is escaped, unless the template is .txt.

    Raises EnvironmentUnfit if Jinja2 is missing.
    """
    # No page may hold control characters or halves of surrogate pairs, which evidence may.
    return printable(_environment().get_template(template).render(values), keep="\n\t")


@cache
def _environment() -> Any:
    jinja2 = library("jinja2", "the HTML report", "html")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=lambda name: not name.endswith(".txt"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plural"] = number_of
    return environment
