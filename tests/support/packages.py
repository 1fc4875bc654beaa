"""What the tests of every package format have in common: what to take out, and damage."""

from pathlib import PurePosixPath

from hypothesis import strategies as st


def everything(path: PurePosixPath) -> bool:
    """Want each file of a package."""
    return True


@st.composite
def damaged(draw: st.DrawFn, package: bytes) -> bytes:
    """A package that is cut off, or has a few bytes that are lost or others."""
    content = bytearray(package)
    if draw(st.booleans()):
        del content[draw(st.integers(0, len(content) - 1)) :]
    for at in draw(st.lists(st.integers(0, max(0, len(content) - 1)), max_size=4)):
        content[at : at + 1] = draw(st.binary(max_size=1))
    return bytes(content)
