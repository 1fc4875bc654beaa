"""OpenSSH
=======

A shell on a host that OpenSSH's client reaches: the user's own ssh_config(5), keys and agent, but
nobody is asked a question, no unknown host is believed, and nothing of ours is lent to the host.
"""

import contextlib
import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from kvmtest.child import mortal
from kvmtest.distribution import install
from kvmtest.errors import EnvironmentUnfit, UsageError

from .shell import ANSWER, PATIENCE, ConnectionLost, Ran, Refused, TooMuch, TooSlow, seconds_left

__all__ = ["OpenSsh", "believing"]

# ssh_config(5). On the command line the first value of an option holds, and holds against files.
_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    # A host may not tell us of further keys of its own.
    "UpdateHostKeys": "no",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ForwardX11Trusted": "no",
    "ClearAllForwardings": "yes",
    "Tunnel": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    # A connection that the user shares among commands was checked by other rules than these.
    "ControlPath": "none",
    "LogLevel": "ERROR",
}

# What ssh(1) ends with where the fault is its own.
_OWN_FAULT = 255
# A command's own 255 becomes this; a command that a signal ended gives 128 + its number.
_RENAMED = '"$@"; status=$?; [ "$status" -ne 255 ] || status=254; exit "$status"'

# What ssh(1) says where another attempt would end in the same way, and what to do.
_REFUSALS = (
    (
        re.compile(rb"REMOTE HOST IDENTIFICATION HAS CHANGED|Offending .* key"),
        "its host key is not the one that is known; see who answers there, and put the right key "
        "into known_hosts",
    ),
    (
        re.compile(rb"Host key verification failed|No .* host key is known"),
        "its host key is not known; put the key that its owner tells you into known_hosts "
        "(ssh-keyscan fetches one from whoever answers)",
    ),
    (
        re.compile(rb"Permission denied|Too many authentication failures"),
        "it does not let us in; give the plan's user a key there, without a question to answer "
        "(ssh-agent, or a key without a passphrase)",
    ),
    (
        re.compile(rb"Could not resolve hostname .*: (Name or service not known|No address)"),
        "no such name; correct the plan, or give it an address in ssh_config",
    ),
    (re.compile(rb"Bad configuration option|terminating, \d+ bad conf"), "ssh_config is wrong"),
)

# Takes a file of a known size: a connection that breaks looks like the end of the file.
_TAKE = """
cat >"$1.part" && [ "$(wc -c <"$1.part")" -eq "$2" ] && sync "$1.part" && mv -f "$1.part" "$1" &&
	exit
rm -f "$1.part"
exit 1
"""

_CHUNK = 1 << 16
# Seconds that ssh may take to end once both its outputs have ended.
_LAST_S = 10.0


@dataclass(frozen=True)
class OpenSsh:
    """A host, as ssh(1) names it: ``[USER@]HOST``, or an alias of ssh_config."""

    host: str
    port: int | None = None
    label: str = ""
    """How messages call it; by default as ssh does."""

    config: Path | None = None
    """The one ssh_config(5) that is read; None for the user's and the machine's own."""

    known_hosts: Path | None = None
    """The one file of host keys that is believed; None for the user's and the machine's own."""

    identity: Path | None = None
    """The private key to use alone; None for those of the user's agent and configuration."""

    options: Sequence[str] = ()
    """Further options, as ``-o`` takes them; none of them changes what is said above."""

    connect_s: int = 15
    """Seconds for the connection to be made."""

    alive_s: int = 15
    """Seconds of silence after which the host is asked whether it is there; asked three times."""

    def __post_init__(self) -> None:
        # A word that ssh(1), or a shell that ssh_config tells it to start, would take for more.
        if not re.fullmatch(r"[A-Za-z0-9_][\w.@:%+\[\]-]*", self.host, re.ASCII):
            raise UsageError(f"{self.host!r} names no host; write [USER@]HOST")

    @property
    def name(self) -> str:
        """How messages call the host."""
        return self.label or self.host

    def command(self, words: Sequence[str]) -> list[str]:
        """Return the words that run a command there."""
        options = [
            *(f"{name}={value}" for name, value in _OPTIONS.items()),
            f"ConnectTimeout={self.connect_s}",
            f"ServerAliveInterval={self.alive_s}",
            "ServerAliveCountMax=3",
        ]
        if self.known_hosts:
            options += believing(self.known_hosts)
        if self.identity:
            options += [f"IdentityFile={_quoted(self.identity)}", "IdentitiesOnly=yes"]
        options += self.options
        more = ["-F", str(self.config)] if self.config else []
        more += ["-p", str(self.port)] if self.port else []
        flags = [word for option in options for word in ("-o", option)]
        remote = shlex.join(["sh", "-c", _RENAMED, "sh", *words])
        return ["ssh", "-T", *flags, *more, "--", self.host, remote]

    def run(
        self,
        words: Sequence[str],
        given: bytes = b"",
        *,
        deadline: float = PATIENCE,
        most: int = ANSWER,
    ) -> Ran:
        """Run a command (kvmtest.fleet.shell.Shell)."""
        with tempfile.TemporaryFile() as file:
            file.write(given)
            file.seek(0)
            return self._run(words, file, deadline, most)

    def put(self, local: Path, remote: str, *, deadline: float = PATIENCE) -> None:
        """Bring a file, whole or not at all (kvmtest.fleet.shell.Shell)."""
        with local.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            words = ["sh", "-c", _TAKE, "sh", remote, str(size)]
            ran = self._run(words, file, deadline, ANSWER)
        ran.must(f"{self.name}: can't write {remote}")

    def get(self, remote: str, *, most: int, deadline: float = PATIENCE) -> bytes:
        """Return the contents of a file (kvmtest.fleet.shell.Shell)."""
        ran = self.run(["cat", "--", remote], deadline=deadline, most=most)
        return ran.must(f"{self.name}: can't read {remote}").output

    def _run(self, words: Sequence[str], given: IO[bytes], deadline: float, most: int) -> Ran:
        until = time.monotonic() + deadline
        with _process(self.command(words), given) as process:
            output, errors = self._read(process, until, deadline, most)
            try:
                status = process.wait(seconds_left(until) + _LAST_S)
            except subprocess.TimeoutExpired:
                raise self._too_slow(deadline) from None
        if status == _OWN_FAULT or status < 0:
            raise self._failure(errors)
        return Ran(status, output, errors)

    def _read(
        self, process: "subprocess.Popen[bytes]", until: float, deadline: float, most: int
    ) -> tuple[bytes, bytes]:
        """Return all that the command writes to its output and errors."""
        assert process.stdout
        assert process.stderr
        read = {process.stdout: bytearray(), process.stderr: bytearray()}
        allowed = {process.stdout: most, process.stderr: max(most, ANSWER)}
        with selectors.DefaultSelector() as selector:
            for pipe in read:
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                if time.monotonic() >= until:
                    raise self._too_slow(deadline)
                for key, _ in selector.select(until - time.monotonic()):
                    pipe = cast(IO[bytes], key.fileobj)
                    chunk = os.read(key.fd, _CHUNK)
                    read[pipe] += chunk
                    if len(read[pipe]) > allowed[pipe]:
                        more = f"it sent more than {allowed[pipe]} bytes"
                        raise TooMuch(f"{self.name}: {more}; see to the host")
                    if not chunk:
                        selector.unregister(pipe)
        return bytes(read[process.stdout]), bytes(read[process.stderr])

    def _too_slow(self, deadline: float) -> TooSlow:
        return TooSlow(f"{self.name}: a command did not end in {deadline:.0f} s; see to the host")

    def _failure(self, errors: bytes) -> ConnectionLost | Refused:
        """Return why ssh had no end of the command to tell."""
        for refusal, what in _REFUSALS:
            if refusal.search(errors):
                return Refused(f"{self.name}: {what}")
        why = Ran(_OWN_FAULT, errors=errors).complaint or "the connection broke"
        return ConnectionLost(f"{self.name}: no connection ({why}); see whether the host is up")


def believing(known_hosts: Path) -> list[str]:
    """Return the options by which ssh(1) believes the host keys of one file alone.

    Raises UsageError where ssh can't be given a file of that name.
    """
    files = [f"UserKnownHostsFile={_quoted(known_hosts)}", "GlobalKnownHostsFile=/dev/null"]
    return [*files, "VerifyHostKeyDNS=no"]


def _quoted(path: Path) -> str:
    """Return a path as ssh_config takes one: it splits words, and replaces % and ${}."""
    text = str(path.absolute())
    if '"' in text or "${" in text or "\n" in text:
        raise UsageError(f"{path}: ssh can't be given a file of that name; rename it")
    return '"{}"'.format(text.replace("%", "%%"))


@contextmanager
def _process(command: Sequence[str], given: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """Start ssh, which dies with us; kill it at the end."""
    if shutil.which("ssh") is None:
        raise EnvironmentUnfit(f"ssh is missing; {install('openssh-client')}")
    with subprocess.Popen(
        mortal(command),
        stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # Not the terminal's Ctrl-C: what a course does then, it does in order.
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
