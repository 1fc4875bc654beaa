"""kvmtest/kernels/configuration.py: the options that a kernel was built with."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.kernels import configuration

TEXT = """\
# Automatically generated file; DO NOT EDIT.
CONFIG_64BIT=y
CONFIG_KVM=m
# CONFIG_DEBUG_INFO_BTF is not set
CONFIG_NR_CPUS=64
CONFIG_LOCALVERSION="-mine"
"""
OPTIONS = {"64BIT": "y", "KVM": "m", "NR_CPUS": "64", "LOCALVERSION": "-mine"}
PACKED = gzip.compress(TEXT.encode())


def image(data: bytes) -> bytes:
    """A vmlinux with this at the place of its .config."""
    return b"\x7fELF and code" + b"IKCFG_ST" + data + b"IKCFG_ED" + b"more code"


def test_options_that_are_set_are_read() -> None:
    assert configuration.parse(TEXT) == OPTIONS


def test_an_image_may_hold_them() -> None:
    assert configuration.embedded(image(PACKED)) == OPTIONS


@pytest.mark.parametrize(
    "vmlinux",
    [b"", b"\x7fELF", image(b""), image(b"nonsense"), image(PACKED[:40]), image(PACKED)[:60]],
    ids=["empty", "without", "nothing", "nonsense", "cut off", "image cut off"],
)
def test_an_image_without_whole_options_has_none(vmlinux: bytes) -> None:
    assert configuration.embedded(vmlinux) is None


@given(st.text())
def test_any_text_is_parsed(text: str) -> None:
    assert all(name.isascii() for name in configuration.parse(text))


@given(st.binary())
def test_any_data_is_unpacked(data: bytes) -> None:
    assert configuration.gunzipped(data) == ""
