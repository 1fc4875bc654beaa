"""A stand-in of the lab's emulator: a shell script that plays a built Bochs with a machine inside.

It stops as c_helpers/bochs/requests.cc does, and speaks the protocol of kvmtest/lab/inside/agent.py
on the ports that its bochsrc, or a saved machine's config, names. In its folder it finds what
kvmtest is to leave inside (``evidence.json``, ``status``), and there it writes down how it was
started (``starts``).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from kvmtest.cache import Cache
from kvmtest.evidence import CpuRecord, Evidence, Result, save
from kvmtest.judge import Verdict
from kvmtest.kernels.resolve import resolve
from kvmtest.lab.digest import of_files
from kvmtest.lab.emulators.bochs.build import Build
from kvmtest.lab.emulators.bochs.built import BuiltBochs
from kvmtest.lab.image import userland
from kvmtest.lab.saved_machine import SavedMachine
from kvmtest.lab.target import MACHINES, LabTarget
from support.evidence_samples import BOCHS, evidence_of
from support.kernel_files import RELEASE, tree_files, write_tree

SCRIPT = r"""#!/bin/sh
here=$(dirname "$0")
rc=$3; test -d "$rc" && rc=$rc/config
passes=${KVMTEST_PASSES-3}
port() { sed -n "s/^$1: .*$2=\"\([^\"]*\)\".*/\1/p" "$rc"; }
exec 7> "$(port com1 dev)" 8> "$(port parport1 file)"
tell() { printf '\036%s\n' "$*" >&8; }
send() { tell "{\"file\": \"$1\", \"size\": $(stat -c %s "$here/$1")}"; cat "$here/$1" >&8; }
payload() { tail -c +2049 "$(port ata1-master path)"; }
stop() {
	if test "$passes" -gt 0; then passes=$((passes - 1)); return; fi
	if test "$KVMTEST_SAVE"; then
		cp "$rc" "$KVMTEST_SAVE/config"
		echo "saved as $1" > "$KVMTEST_SAVE/kvmtest"
		echo "$1" >> "$here/starts"
	fi
	exit 0
}
if test "$2" = -f; then
	echo 'booting' >&7
	test -e "$here/hang" && { echo hangs > "$here/hang"; exec sleep 1000; }
	test -e "$here/panic" && { echo 'Kernel panic - not syncing: no init' >&7; exec sleep 1000; }
	tell '{"stage": "booted"}'
	stop booted
	echo cold >> "$here/starts"
else
	cat "$3/kvmtest" >> "$here/starts"
fi
case "$2 $(cat "$3/kvmtest" 2> /dev/null)" in
"-f "*|*booted)
	tell '{"stage": "ready"}'
	stop ready
esac
tell '{"stage": "awake"}'
payload | tr -d '\0' | grep -a '^{"command"\|{"command"' > "$here/job"
tell '{"stage": "running"}'
printf 'deciding\n' >&8
for file in evidence.json; do test -e "$here/$file" && send "$file"; done
tell "{\"end\": $(cat "$here/status")}"
stop end
exit 0
"""


def evidence(verdicts: Mapping[str, Verdict]) -> Evidence:
    """The evidence of a run with these verdicts."""
    results = [Result(name, verdict, "btf: yes") for name, verdict in verdicts.items()]
    made = evidence_of(results, release=RELEASE, lab=BOCHS)
    cpu = CpuRecord(model_name="Skylake")
    return replace(made, machine=replace(made.machine, cpu=cpu))


@dataclass
class Emulator:
    """The emulator's folder, a kernel's tree, and a cache."""

    folder: Path
    tree: Path
    cache: Cache

    @classmethod
    def install(cls, root: Path, patch: pytest.MonkeyPatch) -> "Emulator":
        """Install it as the Intel machine's, with a small userland and a cache of its own."""
        folder = root / "emulator"
        folder.mkdir()
        program = folder / "bochs"
        program.write_text(SCRIPT)
        program.chmod(0o755)
        patch.setattr(userland, "sources", lambda: {"/bin/program": program})
        patch.setenv("KVMTEST_CACHE", str(root / "cache"))
        made = cls(folder, write_tree(root / "tree", tree_files()), Cache(root / "cache"))
        patch.setitem(MACHINES, "intel", lambda _: made.bochs)
        made.leaves(evidence({"any.soak": Verdict.PASS}), 0)
        return made

    @property
    def bochs(self) -> BuiltBochs:
        """The emulator as the lab finds it."""
        program = self.folder / "bochs"
        return BuiltBochs(Build(self.folder, of_files({program.name: program.read_bytes()})), "")

    def leaves(self, what: Evidence | None, status: int) -> None:
        """Have kvmtest leave this evidence inside, and end with this status."""
        (self.folder / "evidence.json").unlink(missing_ok=True)
        if what:
            save(what, self.folder / "evidence.json")
        (self.folder / "status").write_text(str(status))

    def starts(self) -> list[str]:
        """Return how it was started, or what was saved, since this was asked last."""
        path = self.folder / "starts"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def job(self) -> dict[str, Any]:
        """Return the last job, which files may follow."""
        text = (self.folder / "job").read_text(errors="replace")
        job, _ = json.JSONDecoder().raw_decode(text[text.index('{"command"') :])
        assert isinstance(job, dict)
        return job

    def machine(self, **more: object) -> SavedMachine:
        """Return the saved machine of the tree's kernel."""
        kernel = resolve(str(self.tree), None, self.cache, print)
        return SavedMachine(self.bochs, kernel, self.cache, print, print, **more)  # type: ignore[arg-type]

    def target(self, **more: object) -> LabTarget:
        """Return that machine as a target."""
        return LabTarget(self.machine(**more))
