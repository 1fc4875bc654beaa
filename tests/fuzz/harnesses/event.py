"""pmu/event.py: an event's name, over the terms and formats that sysfs shows of a PMU."""

from fuzz.harness import Harness
from kvmtest.errors import UsageError
from kvmtest.host.facts.perf_pmus import Pmu
from kvmtest.pmu.event import PmuTerms, Tracepoint, parse


def _parse(data: bytes) -> None:
    name, form, *terms = (data.decode(errors="replace") + "\0").split("\0")
    pmu = Pmu("cpu", 4, {"event": form, "umask": "config:8-15"}, {"smi": "".join(terms)}, None)
    match parse(name):
        case PmuTerms() as found:
            found.event(pmu)
        case Tracepoint() as found:
            found.event(1)


HARNESS = Harness(
    parse=_parse,
    seeds=(
        b"cpu/event=0xc0,umask=0/uG\0config:0-7,32-35",
        b"cpu/smi,event=1/\0config1:0-63\0event=0x04,umask=0x1f",
        b"instructions:u",
        b"kvm:kvm_exit:uk",
    ),
    refusals=(UsageError,),
    longest=256,
)
