"""The command that repeats a run names the machine, and what a shell would take apart is quoted."""

import shlex

from support.evidence_samples import BOCHS, evidence_of

from kvmtest.evidence import Evidence
from kvmtest.report.repeat import command, command_of

RELEASE = "6.12.117+deb12-amd64"
DEBIAN = f"Debian's 6.12.117-1~deb12u1 of {RELEASE} (bookworm-security)"
INSIDE = ["kvmtest", "run", "--quiet", "--reload-modules", "-o", "/tmp/output"]


def in_lab(*words: str, emulator: str = "Bochs", **details: object) -> Evidence:
    lab = {**BOCHS, "emulator": emulator, "details": {"cpus": 2, "kernel": DEBIAN, **details}}
    return evidence_of(lab=lab, release=RELEASE, command=[*INSIDE, *words])


def test_a_run_on_the_host_is_repeated_as_it_was_written() -> None:
    words = ["kvmtest", "run", "-o", "a folder", "--only", "any.soak", "--hotplug"]
    evidence = evidence_of(command=words)
    assert shlex.split(command(evidence)) == words
    assert command_of(evidence, "host.hotplug") == "kvmtest run --hotplug --only host.hotplug"


def test_a_run_in_the_lab_is_repeated_from_outside() -> None:
    evidence = in_lab("--only=any.soak", "--strict", "--smi-source=lab")
    where = f"kvmtest lab run --machine intel --cpus 2 --kernel {RELEASE}"
    assert command(evidence) == f"{where} --only=any.soak --strict --smi-source=lab"
    assert command_of(evidence, "any.soak") == f"{where} --smi-source=lab --only any.soak"


def test_the_machine_is_found_by_emulator_and_board() -> None:
    for board, machine in (("pc, SeaBIOS", "amd"), ("q35, OVMF with SMM", "amd-uefi")):
        assert f"--machine {machine} " in command(in_lab(emulator="QEMU", board=board))
    assert "--machine" not in command(in_lab(emulator="another"))


def test_what_was_changed_of_the_machine_is_named() -> None:
    evidence = in_lab(
        shown_cpu_features="rtm",
        kvm_parameters="kvm_intel.nested=1 kvm.x=2",
        kernel="the folder /x",
    )
    assert shlex.split(command(evidence))[3:] == [
        "--machine", "intel", "--cpus", "2", "--show-cpu-feature", "rtm",
        "--kvm-parameter", "kvm_intel.nested=1", "--kvm-parameter", "kvm.x=2",
    ]  # fmt: skip


def test_words_of_evidence_are_quoted() -> None:
    assert command(evidence_of(command=["kvmtest", "run", "; rm -rf /"])).endswith(" '; rm -rf /'")
    assert command_of(evidence_of(), "$(reboot)").endswith(" --only '$(reboot)'")
    assert command(evidence_of(command=[])) == ""
