"""Fleets that were made up: plans, and results that tests write."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from kvmtest.evidence import Result, save
from kvmtest.fleet.course import Fact
from kvmtest.fleet.ledger import Ledger
from kvmtest.fleet.plan import parse
from kvmtest.fleet.results import Results
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


def fleet(folder: Path, hosts: Iterable[str], kernels: Iterable[str]) -> Results:
    """Begin a fleet that tries nothing again; nothing is done yet."""
    return Results.create(folder, parse(plan_text(hosts, kernels, retries=0), Path("plan.yaml")))


def keep(folder: Path, place: str, verdicts: Mapping[str, Verdict], **about: str) -> Path:
    """Keep evidence at a place of results, HOST/KERNEL/NUMBER; return its file."""
    own = folder / place
    own.mkdir(parents=True)
    results = [Result(name, verdict, "because") for name, verdict in verdicts.items()]
    status = 1 if Verdict.FAIL in verdicts.values() else 0
    save(evidence_of(results, status, **about), own / "evidence.json")
    return own / "evidence.json"


def tell(results: Results, host: str, *facts: Fact) -> None:
    """Have a host's ledger tell facts."""
    (lane,) = (lane for lane in results.lanes if lane.host.name == host)
    path = results.ledger(lane)
    path.parent.mkdir(parents=True, exist_ok=True)
    with Ledger(path) as ledger:
        for fact in facts:
            ledger.write(fact)
