"""Remote targets
==============

Runs jobs on a host over a shell. kvmtest comes to the host as a bundle, once; a job runs there in a
unit that outlives the connection and whoever asks for it. All stands in one folder of the host.

Nothing of a host is believed unseen: it is asked for two files by name, each of a bounded size, and
evidence must fit its schema.
"""

import hashlib
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit, UsageError, printable
from kvmtest.evidence.file import EVIDENCE, MOST, loads
from kvmtest.lab.target import Stopwatch
from kvmtest.named_file import MIB
from kvmtest.target import Job, Outcome, TargetFailed, TimeUp

from .bundle import ASK, LIBRARIES, Bundle, HostPython, bundle
from .host import HostLost
from .shell import CommandFailed, ConnectionLost, Shell, TooMuch, TooSlow, seconds_left, while_lost
from .unit import ENDED, OUTPUT

__all__ = ["FOLDER", "RemoteTarget"]

OnText = Callable[[str], None]

#: Where all is that a fleet brings to a host.
FOLDER = "/var/lib/kvmtest/fleet"

_JOURNAL = "/var/lib/kvmtest/journal"
_LOG = "kernel.log"
_LOG_MOST = 32 * MIB

# Of a host's text this much goes into a message.
_TOLD = 300

# Seconds for the bundle to get there, and for a job to end once it is told to.
_BRING_S = 600.0
_END_S = 90.0
# Seconds for what a run left to be undone.
_UNDO_S = 300.0
# Seconds beyond a job's deadline: it restores its host, and the host may be away for a while.
_LATE_S = 180.0
# Seconds in which evidence must come over.
_FETCH_S = 300.0

# Words: a Python program that a Python of the host is asked with.
_PROBE = """
[ "$(id -u)" = 0 ] || { echo "the user there is not root; name root in the plan" >&2; exit 1; }
for python in python3 python3.14 python3.13 python3.12 python3.11; do
	"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
	exec "$python" -c "$1"
done
echo "there is no Python 3.11 or later; install python3" >&2
exit 1
"""
_MAKE = 'mkdir -p -m 700 "$1" && [ -d "$1/bundle-$2" ] && echo there; [ -d "$1" ]'
# Words: the archive, its digest, and the folder that it becomes.
_UNPACK = """
import hashlib, os, shutil, sys, tarfile
archive, digest, folder = sys.argv[1:]
part = folder + ".part"
try:
    shutil.rmtree(part, ignore_errors=True)
    with open(archive, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            sys.exit("it came damaged")
    with tarfile.open(archive) as tar:
        tar.extractall(part, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    os.sync()
    os.rename(part, folder)
except OSError as error:
    sys.exit(error.strerror)
finally:
    os.unlink(archive)
    shutil.rmtree(part, ignore_errors=True)
"""
# Prints the jobs that began, and the journal; fails where there is nothing of ours.
_TOUCHED = f"""
rm -rf {FOLDER}.gone
ls -d {FOLDER}/job-* {_JOURNAL} 2>/dev/null
[ -e {FOLDER} ] || [ -e {_JOURNAL} ]
"""
_END = f'exec "$@" {FOLDER}/job-*'
# Without a name that anybody looks for, what is half removed is not taken for whole.
_REMOVE = f"""
rm -rf {FOLDER}.gone && mv {FOLDER} {FOLDER}.gone && rm -rf {FOLDER}.gone
"""


@dataclass
class RemoteTarget:
    """A host, as it is booted now; ``on_step`` gets a line before each step that takes seconds."""

    shell: Shell
    on_step: OnText
    cache: Cache = field(default_factory=Cache.default)

    def run(self, job: Job) -> Outcome:
        """Run a job (kvmtest.target.Target); raises HostLost where the host stays away."""
        if job.modules or job.parameters:
            raise UsageError(
                f"{self.shell.name}: a lab machine alone loads modules of a job's own, or with "
                "parameters; boot a kernel that has them"
            )
        watch = Stopwatch()
        folder = f"{FOLDER}/job-{_name(job.id)}"
        try:
            # Once for the way there, which may be slow, and once for the run.
            until = time.monotonic() + job.deadline + _LATE_S
            while_lost(lambda: self._bring(until), until)
            watch.lap("bundle")
            self._start(job, folder, until)
            watch.lap("start")
            state = self._wait(folder, time.monotonic() + job.deadline + _LATE_S)
            watch.lap("run")
            outcome = self._outcome(folder, state, watch)
        except (ConnectionLost, TooSlow) as error:
            # Its unit ends a run in time: a host that is there has told so by now.
            raise HostLost(f"{error} (its time was up)", "") from None
        except (TooMuch, CommandFailed) as error:
            raise TargetFailed(str(error), "") from None
        return outcome

    def restore(self, deadline: float) -> None:
        """End what is at work, undo what a run left, and remove what was brought.

        Raises HostLost where the host can't be seen to be restored within ``deadline`` seconds.
        """
        until = time.monotonic() + deadline
        try:
            while_lost(lambda: self._restore(until), until)
        except EnvironmentUnfit as error:
            raise HostLost(f"{self.shell.name}: not restored: {error}", "") from None

    # Bringing

    @cached_property
    def _python(self) -> HostPython:
        name = self.shell.name
        ran = self.shell.run(["sh", "-c", _PROBE, "sh", ASK])
        return HostPython.of(ran.must(f"{name}: can't run kvmtest").text, name)

    @cached_property
    def _bundle(self) -> Bundle:
        return bundle(self._python, self.cache)

    @property
    def _unpacked(self) -> str:
        return f"{FOLDER}/bundle-{self._bundle.digest}"

    def _bring(self, until: float) -> None:
        """Bring the bundle, unless the host has it."""
        name, digest = self.shell.name, self._bundle.digest
        ran = self.shell.run(["sh", "-c", _MAKE, "sh", FOLDER, digest])
        if ran.must(f"{name}: can't make {FOLDER}").text == "there":
            return
        size = self._bundle.path.stat().st_size / 1e6
        self.on_step(f"{name}: bringing kvmtest ({size:.1f} MB)")
        archive = f"{FOLDER}/{digest}.tar.gz"
        self.shell.put(self._bundle.path, archive, deadline=min(_BRING_S, seconds_left(until)))
        words = [self._python.program, "-c", _UNPACK, archive, digest, self._unpacked]
        unpacked = self.shell.run(words, deadline=min(_BRING_S, seconds_left(until)))
        unpacked.must(f"{name}: can't unpack kvmtest")

    def _kvmtest(self, module: str, *words: str) -> list[str]:
        """Return the words that run a module of the bundle there, and no other code of the host's.

        The variables hold for what it starts, too.
        """
        paths = f"PYTHONPATH={self._unpacked}/{LIBRARIES}"
        alone = ["PYTHONSAFEPATH=1", "PYTHONNOUSERSITE=1"]
        return ["env", paths, *alone, self._python.program, "-m", module, *words]

    # Running

    def _start(self, job: Job, folder: str, until: float) -> None:
        description = {
            "before": [list(words) for words in job.commands],
            "command": self._kvmtest(
                "kvmtest", "run", "--quiet", "-o", f"{folder}/{OUTPUT}", *job.words
            ),
            "restore": self._kvmtest("kvmtest", "restore"),
            "deadline": job.deadline,
        }
        words = self._kvmtest("kvmtest.fleet.unit", "start", folder)
        given = json.dumps(description).encode()
        ran = while_lost(lambda: self.shell.run(words, given), until)
        ran.must(f"{self.shell.name}: can't start the run")

    def _wait(self, folder: str, until: float) -> dict[str, Any]:
        """Wait for the end of a job, whatever becomes of the connection; return its state."""
        words = self._kvmtest("kvmtest.fleet.unit", "wait", folder)
        self.on_step(f"{self.shell.name}: running")

        def wait() -> dict[str, Any]:
            ran = self.shell.run(words, deadline=seconds_left(until))
            return _state(ran.must(f"{self.shell.name}: can't wait for the run").output)

        return while_lost(wait, until)

    def _outcome(self, folder: str, state: dict[str, Any], watch: Stopwatch) -> Outcome:
        name = self.shell.name
        printed = printable(str(state.get("printed", "")), keep="\n\t")
        if state.get("state") != ENDED:
            self._undo(_UNDO_S)
            how = "the host was restarted" if state.get("restarted") else "it was killed"
            raise TargetFailed(f"{name}: the run died amid its work: {how}", printed)
        status, why = state.get("status"), _short(str(state.get("why", "")))
        if why or not isinstance(status, int):
            failed = TimeUp if state.get("late") is True else TargetFailed
            raise failed(f"{name}: the run failed: {why or 'no status'}", printed)
        until = time.monotonic() + _FETCH_S
        try:
            data = self._fetch(f"{folder}/{OUTPUT}/{EVIDENCE}", MOST, until)
        except CommandFailed:
            last = _short((printed.strip().splitlines() or ["it printed nothing"])[-1])
            raise TargetFailed(
                f"{name}: kvmtest ended with status {status} and left no evidence: {last}", printed
            ) from None
        try:
            evidence = loads(data.decode(errors="replace"), Path(f"{EVIDENCE} of {name}"))
        except EnvironmentUnfit as error:
            raise TargetFailed(_short(str(error)), printed) from None
        try:
            log = self._fetch(f"{folder}/{OUTPUT}/{_LOG}", _LOG_MOST, until)
        except (CommandFailed, TooMuch):
            log = b""
        watch.lap("fetch")
        text = printable(log.decode(errors="replace"), keep="\n\t")
        files = {EVIDENCE: data, _LOG: text.encode()}
        return Outcome(status & 0xFF, evidence, files, durations=watch.durations)

    def _fetch(self, path: str, most: int, until: float) -> bytes:
        return while_lost(
            lambda: self.shell.get(path, most=most, deadline=seconds_left(until)), until
        )

    # Restoring

    def _restore(self, until: float) -> None:
        touched = self.shell.run(["sh", "-c", _TOUCHED])
        if touched.status:
            return
        # Where nothing ran there is nothing to undo, and a full disk has no room for kvmtest.
        if touched.text:
            self._bring(until)
            # However many there are, one command ends them.
            end = self._kvmtest("kvmtest.fleet.unit", "end", str(_END_S))
            ended = self.shell.run(["sh", "-c", _END, "sh", *end], deadline=seconds_left(until))
            ended.must("a run is at work still, and can't be ended")
            self._undo(seconds_left(until))
        self.shell.run(["sh", "-c", _REMOVE]).must(f"can't remove {FOLDER}")

    def _undo(self, deadline: float) -> None:
        """Undo what a run left."""
        words = self._kvmtest("kvmtest", "restore")
        self.shell.run(words, deadline=deadline).must("kvmtest restore failed")


def _name(job: str) -> str:
    """Return the folder's name for a job: whoever asks for the same one again gets the same."""
    return hashlib.sha256(job.encode()).hexdigest()[:32] if job else secrets.token_hex(16)


def _short(text: str) -> str:
    """Return a host's text as it goes into a message."""
    return printable(text)[:_TOLD]


def _state(answer: bytes) -> dict[str, Any]:
    """Return what a host says of a job; raises TargetFailed where that is nothing."""
    try:
        state = json.loads(answer)
    except (ValueError, RecursionError):
        state = None
    if not isinstance(state, dict):
        raise TargetFailed("the host says nothing of its run; see to the host", "")
    return state
