"""kvmtest/lab/channel.py: what a machine says comes out the same however its bytes are cut."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.lab.channel import _LONGEST_LINE, Channel, Line, Message, ReceivedFile

Event = Line | Message | ReceivedFile


def message(**fields: Any) -> bytes:
    return b"\x1e" + json.dumps(fields).encode() + b"\n"


def heard(*parts: bytes) -> list[Event]:
    channel = Channel()
    return [event for part in parts for event in channel.feed(part)]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


# Events with the bytes that say them.
LINES = st.text('ab {}"\\é\0\x1b', max_size=40).map(
    lambda text: (Line(text), text.encode() + b"\n")
)
VALUES = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=20)
MESSAGES = st.dictionaries(st.sampled_from(["stage", "end", "failed", "x"]), VALUES).map(
    lambda fields: (Message(fields), message(**fields))
)
FILES = st.tuples(st.text("ab1-_é ", min_size=1), st.binary(max_size=300)).map(
    lambda file: (ReceivedFile(*file), message(file=file[0], size=len(file[1])) + file[1])
)


@given(st.lists(LINES | MESSAGES | FILES), st.lists(st.integers(0)))
def test_any_cutting_of_the_bytes_gives_the_same_events(
    said: list[tuple[Event, bytes]], places: list[int]
) -> None:
    data = b"".join(part for _, part in said)
    assert heard(*cut(data, places)) == [event for event, _ in said]


GARBAGE = st.lists(
    st.binary(max_size=30)
    | st.sampled_from(
        [b"\x1e", b"\n", b"\x1e{", b"}\n", b'\x1e{"file": "a", "size": 3}\n', b'"size": -1', b"\0"]
    )
).map(b"".join)


@given(GARBAGE, st.lists(st.integers(0)))
def test_garbage_gives_events_and_no_error_however_it_is_cut(
    data: bytes, places: list[int]
) -> None:
    assert heard(*cut(data, places)) == heard(data)


@given(GARBAGE)
def test_of_garbage_no_complete_line_is_kept_back(data: bytes) -> None:
    events = heard(data.replace(b'"file"', b'"f"'), b"\n")
    assert len(events) >= data.count(b"\n") + 1


@pytest.mark.parametrize(
    "line",
    [
        b"\x1e",
        b"\x1enothing",
        b"\x1e[1]",
        b"\x1e\xff\xfe",
        b"\x1e" + b"[" * 100_000,
        b'\x1e{"a":' * 50_000,
        b'\x1e{"size": ' + b"9" * 5000 + b"}",
        b'{"stage": "booted"}',
    ],
    ids=lambda line: repr(line[:20]),
)
def test_a_line_that_is_no_message_is_a_line(line: bytes) -> None:
    assert heard(line + b"\n") == [Line(line.decode(errors="replace"))]


@pytest.mark.parametrize(
    "fields",
    [
        {"file": "a"},
        {"size": 2},
        {"file": 1, "size": 2},
        {"file": "a", "size": -2},
        {"file": "a", "size": True},
        {"file": "a", "size": 2.0},
        {"file": "", "size": 2},
        {"file": "..", "size": 2},
        {"file": "../a", "size": 2},
        {"file": "/etc/passwd", "size": 2},
        {"file": "a\0b", "size": 2},
        {"file": "\ud800", "size": 2},
    ],
    ids=str,
)
def test_a_file_without_a_sound_name_and_size_is_not_received(fields: dict[str, Any]) -> None:
    assert heard(message(**fields), b"ab\n") == [Message(fields), Line("ab")]


def test_a_message_is_heard_behind_text_without_a_newline() -> None:
    assert heard(b"50 %", message(file="a", size=2), b"ab", b"50 %", message(end=0)) == [
        Line("50 %"),
        ReceivedFile("a", b"ab"),
        Line("50 %"),
        Message({"end": 0}),
    ]


def test_a_file_s_bytes_are_its_own_even_if_they_look_like_messages() -> None:
    data = message(end=1) + b"\n\x1e"
    assert heard(message(file="a", size=len(data)), data, message(end=0)) == [
        ReceivedFile("a", data),
        Message({"end": 0}),
    ]


def test_an_empty_file_is_received_at_once() -> None:
    assert heard(message(file="a", size=0)) == [ReceivedFile("a", b"")]


def test_what_is_not_complete_is_not_there_yet() -> None:
    assert heard(b"half a line", b"\x1e{}") == []
    assert heard(message(file="a", size=3), b"ab") == []


def test_a_line_of_a_terminal_ends_without_its_carriage_return() -> None:
    assert heard(b"one\r\n") == [Line("one")]


@given(st.lists(st.integers(0)))
def test_a_line_that_never_ends_comes_in_pieces_the_same_however_it_is_cut(
    places: list[int],
) -> None:
    endless = b"x" * (2 * _LONGEST_LINE + 5)
    pieces = [Line("x" * _LONGEST_LINE)] * 2
    assert heard(*cut(endless, places)) == pieces
    assert heard(*cut(endless + b"\n", places)) == [*pieces, Line("x" * 5)]


@pytest.mark.parametrize("size", [1 << 31, 10**30])
def test_a_file_larger_than_any_is_not_waited_for(size: int) -> None:
    assert heard(message(file="a", size=size), b"a line\n") == [
        Message({"file": "a", "size": size}), Line("a line"),
    ]  # fmt: skip
