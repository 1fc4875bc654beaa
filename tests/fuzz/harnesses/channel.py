"""lab/channel.py: what a machine says, in one piece and in several: the same must come out."""

from fuzz.harness import Harness
from kvmtest.lab.channel import Channel

SEEDS = (
    b'a line\r\n\x1e{"phase": "ready"}\nprinted\x1e{"file": "evidence.json", "size": 3}\nabc\n',
    b'\x1e{"file": "a", "size": 0}\n\x1e{"file": "../a", "size": 1}\n\x1e[]\n\x1e{"size": true}\n',
    b"\x1e{}\n" * 20,
)


def parse(data: bytes) -> None:
    whole = list(Channel().feed(data))
    at = data[0] if data else 0
    channel = Channel()
    pieces = [event for part in (data[:at], data[at:]) for event in channel.feed(part)]
    assert pieces == whole, (pieces, whole)


HARNESS = Harness(parse=parse, seeds=SEEDS)
