"""Reads pages as browsers do, and refuses what is no valid HTML."""

from typing import Any

from justhtml import JustHTML

#: Where HTML names something that a browser fetches.
FETCHED = ("src", "srcset", "data", "poster", "background", "action", "formaction", "ping")


def page_of(text: str) -> Any:
    """Return the page's tree; raises if the text is no valid HTML."""
    page = JustHTML(text, strict=True, sanitize=False)
    ids = [each.attrs["id"] for each in page.query("[id]")]
    assert len(ids) == len(set(ids))
    return page


def assert_alone(page: Any) -> None:
    """Assert that the page needs nothing besides itself, runs nothing, and has no dead link."""
    (policy,) = page.query("meta[http-equiv]")
    assert policy.attrs["http-equiv"] == "Content-Security-Policy"
    assert policy.attrs["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    for name in ("script", "link", "img", "iframe", "object", "embed", "form", "base", "image"):
        assert page.query(name) == [], name
    ids = {each.attrs["id"] for each in page.query("[id]")}
    for each in page.query("*"):
        for name, value in each.attrs.items():
            assert not name.startswith("on"), (each.name, name)
            assert name not in FETCHED, (each.name, name)
            if name.endswith("href"):
                assert ":" not in value, value
                assert not value.startswith("#") or value[1:] in ids, value
    for style in page.query("style"):
        assert "url(" not in style.to_text()
        assert "@import" not in style.to_text()


def text_of(node: Any) -> str:
    """Return the text that a reader sees, with single spaces."""
    return " ".join(node.to_text().split()).replace(" ,", ",")
