"""Fleets that were made up: plans, and results that tests write."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from kvmtest.evidence import Result, save
from kvmtest.fleet.course import Course, Fact
from kvmtest.fleet.plan import parse
from kvmtest.fleet.tasks import Lane, lanes
from kvmtest.judge import Verdict
from support.evidence_samples import evidence_of


def plan_text(hosts: Iterable[str], kernels: Iterable[str], retries: int = 1) -> str:
    """Return a plan of hosts that are reached by SSH."""
    return "\n".join(
        [
            "hosts:",
            *(f"  {host}: {{ssh: root@{host}}}" for host in hosts),
            "kernels:",
            *(f"  {kernel}: {{debian: 6.12}}" for kernel in kernels),
            f"runs: [{{retries: {retries}}}]",
        ]
    )


def planned(hosts: Iterable[str], kernels: Iterable[str]) -> list[tuple[Lane, Course]]:
    """Return the lanes of such a plan, which tries nothing again; nothing is done yet."""
    text = plan_text(hosts, kernels, retries=0)
    return [(lane, Course(lane.tasks)) for lane in lanes(parse(text, Path("plan.yaml")))]


def keep(folder: Path, place: str, verdicts: Mapping[str, Verdict], **about: str) -> Path:
    """Write evidence to a place of results, HOST/KERNEL/NUMBER; return its file."""
    own = folder / place
    own.mkdir(parents=True)
    results = [Result(name, verdict, "because") for name, verdict in verdicts.items()]
    status = 1 if Verdict.FAIL in verdicts.values() else 0
    save(evidence_of(results, status, **about), own / "evidence.json")
    return own / "evidence.json"


def tell(courses: list[tuple[Lane, Course]], host: str, *facts: Fact) -> None:
    """Have a host's course be what facts tell."""
    for at, (lane, _) in enumerate(courses):
        if lane.host.name == host:
            courses[at] = lane, Course.of(lane.tasks, facts)
