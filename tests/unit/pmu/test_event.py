"""Events are encoded as perf encodes them, and nonsense is refused with what there is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.errors import UsageError
from kvmtest.host.facts.perf_pmus import Pmu
from kvmtest.pmu.event import Event, PmuTerms, Tracepoint, listed, parse

# As a kernel on an Intel CPU has them, and a term in two pieces as AMD's PMU has it.
CPU = Pmu(
    name="cpu",
    type=4,
    format={
        "event": "config:0-7",
        "umask": "config:8-15,40-47",
        "edge": "config:18",
        "ldlat": "config1:0-15",
        "frontend": "config2:0-23",
        "far": "config9:0-7",
        "odd": "config:60-70",
        "nowhere": "config:",
    },
    events={
        "instructions": "event=0xc0",
        "mem-loads": "event=0xcd,umask=0x1,ldlat=3",
        "edge-cycles": "event=0x3c,edge",
        "asks": "event=?",
    },
    cpus=None,
)


def encoded(text: str, pmu: Pmu = CPU) -> Event:
    terms = parse(text)
    assert isinstance(terms, PmuTerms)
    assert terms.pmu == pmu.name
    return terms.event(pmu)


@pytest.mark.parametrize(
    ("text", "configs"),
    [
        ("cpu/event=0xc0,umask=0x0/", (0xC0, 0, 0)),
        ("cpu/event=192/", (0xC0, 0, 0)),
        ("cpu/instructions/", (0xC0, 0, 0)),
        ("cpu/event=0x3c,edge/", (0x4003C, 0, 0)),
        ("cpu/edge-cycles/", (0x4003C, 0, 0)),
        ("cpu/umask=0x1ff/", (1 << 40 | 0xFF00, 0, 0)),
        ("cpu/umask=0xa55a/", (0xA5 << 40 | 0x5A << 8, 0, 0)),
        ("cpu/mem-loads/", (0x1CD, 3, 0)),
        ("cpu/mem-loads,ldlat=4/", (0x1CD, 4, 0)),
        ("cpu/frontend=0xffffff/", (0, 0, 0xFFFFFF)),
        ("cpu/config=0x1234,config1=5,config2=6/", (0x1234, 5, 6)),
        ("cpu/config=0xffff,event=0/", (0xFF00, 0, 0)),
    ],
)
def test_terms_go_where_the_format_says(text: str, configs: tuple[int, int, int]) -> None:
    event = encoded(text)
    assert (event.config, event.config1, event.config2) == configs
    assert (event.name, event.pmu, event.type) == (text, "cpu", 4)


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFF))
def test_a_term_in_two_pieces_can_be_put_together_again(umask: int, event: int) -> None:
    config = encoded(f"cpu/umask={umask:#x},event={event}/").config
    assert (config >> 40 << 8 | config >> 8 & 0xFF, config & 0xFF) == (umask, event)


@pytest.mark.parametrize(
    ("text", "type_", "config"),
    [
        ("cycles", 0, 0),
        ("cpu-cycles", 0, 0),
        ("instructions", 0, 1),
        ("branch-misses", 0, 5),
        ("ref-cycles", 0, 9),
        ("cpu-clock", 1, 0),
        ("task-clock", 1, 1),
        ("context-switches", 1, 3),
        ("major-faults", 1, 6),
    ],
)
def test_generic_events_have_the_numbers_of_perf_event_h(
    text: str, type_: int, config: int
) -> None:
    event = parse(text)
    assert isinstance(event, Event)
    assert (event.type, event.config, event.name) == (type_, config, text)
    assert event.pmu == ("hardware", "software")[type_]


def test_a_tracepoint_is_its_id() -> None:
    tracepoint = parse("kvm:kvm_exit:k")
    assert isinstance(tracepoint, Tracepoint)
    assert (tracepoint.system, tracepoint.name) == ("kvm", "kvm_exit")
    event = tracepoint.event(103)
    assert (event.type, event.config, event.name) == (2, 103, "kvm:kvm_exit:k")
    assert event.excluded == {"exclude_user", "exclude_hv"}


# What perf sets for each (tools/perf/util/parse-events.c).
EXCLUDED = {
    "": (),
    "u": ("kernel", "hv"),
    "k": ("user", "hv"),
    "h": ("user", "kernel"),
    "uk": ("hv",),
    "ukh": (),
    "G": ("host",),
    "H": ("guest",),
    "GH": (),
    "uG": ("kernel", "hv", "host"),
    "kG": ("user", "hv", "host"),
}


@pytest.mark.parametrize(("letters", "excluded"), EXCLUDED.items())
def test_letters_exclude_what_they_do_not_name(letters: str, excluded: tuple[str, ...]) -> None:
    bits = {f"exclude_{what}" for what in excluded}
    assert encoded(f"cpu/instructions/{letters}").excluded == bits
    generic = parse(f"instructions:{letters}" if letters else "instructions")
    assert isinstance(generic, Event)
    assert generic.excluded == bits


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no event"),
        ("instruction", "one of"),
        ("instructions:", "is no event"),
        ("cpu/instructions", "is no event"),
        ("a:b:c:d", "is no event"),
        ("cpu/x/y/", "is no event"),
        ("cycles:uz", "modifier 'z' is not known; there are ukhGH"),
        ("cpu/instructions/p", "modifier 'p'"),
        ("cpu//", "no event or term ''"),
        ("cpu/instruction/", "its events: asks, edge-cycles, instructions, mem-loads; its terms: "),
        ("cpu/inv=1/", "no event or term 'inv'"),
        ("cpu/event=0x100/", "event=0x100 is too big for 8 bits"),
        ("cpu/event=-1/", "too big"),
        ("cpu/instructions=2/", "no event or term 'instructions'"),
        ("cpu/event=high/", "'event=high' has no number"),
        ("cpu/event=/", "'event=' has no number"),
        ("cpu/asks/", "'event=?' has no number"),
        ("cpu/far=1/", "far belongs in 'config9:0-7', which kvmtest does not know"),
        ("cpu/odd=1/", "odd belongs in 'config:60-70'"),
        ("cpu/nowhere=1/", "nowhere belongs in 'config:'"),
    ],
)
def test_nonsense_is_refused_in_a_line_that_says_what_there_is(text: str, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        encoded(text)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_of_many_names_the_closest_are_listed() -> None:
    names = [f"event-{number}" for number in range(40)] + ["kvm_exit"]
    line = listed("kvm_exi", names)
    assert "kvm_exit" in line
    assert line.endswith("and 29 more")
    assert listed("x", []) == "nothing"
