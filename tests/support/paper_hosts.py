"""Hosts on paper: each is a folder that outlives whoever asks it for something, as a machine does.

A host notes in its history what it did: which kernels it booted, which jobs it started, when it was
put back. Its trouble is a file that names what goes wrong.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kvmtest.errors import EnvironmentUnfit
from kvmtest.evidence import Evidence, Result
from kvmtest.fleet.host import HostLost, PlannedKernel, WrongKernel
from kvmtest.judge import Verdict
from kvmtest.target import Job, Outcome, TargetFailed, TimeUp
from support.evidence_samples import evidence_of

__all__ = ["OWN_STATE", "PaperHost", "evidence_by", "start_of"]

OWN_STATE: Mapping[str, Any] = {"kernel": "own", "brought": [], "jobs": {}}
"""What a host is like when nobody has done anything with it."""

PROPERTY = "any.soak"


@dataclass
class PaperHost:
    """A host in a folder (kvmtest.fleet.host.Host); ``seconds`` is how long its jobs take."""

    name: str
    folder: Path
    seconds: float = 0.0

    @classmethod
    def made(cls, name: str, folder: Path, seconds: float = 0.0) -> "PaperHost":
        host = cls(name, folder / name, seconds)
        host.folder.mkdir(parents=True)
        host._write({**OWN_STATE, "history": []})
        return host

    @contextmanager
    def opened(self) -> Iterator["PaperHost"]:
        self._suffer("open")
        yield self

    def boot(self, kernel: PlannedKernel, deadline: float) -> "PaperHost":
        self._suffer(f"boot {kernel.name}")
        if self.state["kernel"] != kernel.name:
            # A job does not survive a boot.
            self._become({"boot": kernel.name}, kernel=kernel.name, brought=[kernel.name], jobs={})
        return self

    def run(self, job: Job) -> Outcome:
        self._suffer("run")
        if job.id not in self.state["jobs"]:
            number = self.history.count({"job": job.id}) + 1
            end = time.monotonic() + self.seconds
            self._become({"job": job.id}, jobs={**self.state["jobs"], job.id: [number, end]})
        number, end = self.state["jobs"][job.id]
        if (left := end - time.monotonic()) > 0:
            time.sleep(left)  # The job's own time.
        self._suffer("ran")
        return Outcome(0, evidence_by(self.name, self.state["kernel"], f"{job.id} {number}"))

    def restore(self, deadline: float) -> None:
        self._suffer("restore")
        self._become({"restored": True}, **OWN_STATE)

    @property
    def state(self) -> dict[str, Any]:
        """What the host is like now; OWN_STATE where it is as it was found."""
        return {name: value for name, value in self._read().items() if name in OWN_STATE}

    @property
    def history(self) -> list[dict[str, Any]]:
        """What it did, in order."""
        history: list[dict[str, Any]] = self._read()["history"]
        return history

    def trouble(self, **kinds: str) -> None:
        """Have this go wrong from now on: ``run="lost"``; nothing for none."""
        (self.folder / "trouble").write_text(json.dumps(kinds))

    def _suffer(self, what: str) -> None:
        path = self.folder / "trouble"
        kinds = json.loads(path.read_text()) if path.exists() else {}
        match kinds.get(what.replace(" ", "_")):
            case "lost":
                raise HostLost(f"{self.name} does not answer", "console of a lost host")
            case "wrong":
                raise WrongKernel(f"{self.name} came back with another kernel", "")
            case "late":
                raise TimeUp(f"{self.name} did not end within 1 s", "")
            case "failed":
                raise TargetFailed(f"{self.name} left no evidence", "console\x1b[2J of a failure")
            case "unfit":
                raise EnvironmentUnfit(f"{self.name} can't have that; give it another")
            case "interrupt":
                raise KeyboardInterrupt

    def _read(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads((self.folder / "state").read_text())
        return read

    def _become(self, entry: Mapping[str, Any], **state: Any) -> None:
        """Change at once what the host is like and what its history says of it."""
        old = self._read()
        self._write({**old, **state, "history": [*old["history"], entry]})

    def _write(self, state: Mapping[str, Any]) -> None:
        draft = self.folder / f".state.{os.getpid()}"
        draft.write_text(json.dumps(state))
        draft.replace(self.folder / "state")


def evidence_by(host: str, kernel: str, start: str) -> Evidence:
    """Return the evidence of a run that names its host, kernel and start."""
    made = evidence_of([Result(PROPERTY, Verdict.PASS, f"started as {start}")], release=kernel)
    return replace(made, machine=replace(made.machine, hostname=host))


def start_of(evidence: Evidence) -> str:
    """Return the start that the evidence of a paper host names."""
    return evidence.results[0].reason.removeprefix("started as ")
