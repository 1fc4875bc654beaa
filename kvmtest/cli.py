"""The command line
================

``kvmtest doctor | list | run | restore | report | finding | replay | lab | smi | kernel``. Each
command is a function that returns an exit status; imports that take time are made by the command
that needs them.
"""

import argparse
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from kvmtest import __version__
from kvmtest.errors import EnvironmentUnfit, KvmtestError, UsageError
from kvmtest.interruption import Interruption
from kvmtest.suite_words import refuse

__all__ = ["main"]

EXIT = (
    "exit status of run: 0 all decided properties PASS and at least one was decided, 1 some FAIL, "
    "2 usage, 3 some ERROR, 4 nothing decided, 130 interrupted"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status is the process's."""
    _open_standard_streams()
    try:
        status = _main(list(sys.argv[1:] if argv is None else argv))
    except SystemExit as end:
        # argparse, which has printed help, or said what is wrong.
        sys.exit(_flushed(end.code if isinstance(end.code, int) else 0))
    status = _flushed(status)
    if argv is None:
        # The process ends: no signal may change the status that it ends with.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    return status


def _flushed(status: int) -> int:
    """Write what stdout holds; return the status, or that of output that can't be written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _forget_stdout()
        if not isinstance(error, BrokenPipeError):
            print(f"kvmtest: can't write the output: {error.strerror}", file=sys.stderr)  # noqa: T201
            return status or 3
    return status


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, whatever the words hold."""

    def error(self, message: str) -> NoReturn:
        super().error(_line(message))

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse would hide that help can't be written.
        if file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)


def _line(words: object) -> str:
    """Return words as one line, without what a terminal might obey."""
    return "".join(c if c.isprintable() else "\ufffd" for c in str(words))


def _main(words: list[str]) -> int:
    arguments, extra = _split(words)
    # To git bisect run, 1 to 124 would say that the kernel is bad.
    runs = arguments[:1] == ["run"] or arguments[:2] == ["lab", "run"]
    unfit = 125 if runs and "--bisect" in arguments else 0
    try:
        options = _parser().parse_args(arguments)
        options.pytest_args = extra
        options.command_line = ["kvmtest", *arguments, *(["--", *extra] if extra else [])]
        if extra and options.command != "run":
            raise UsageError("only run takes arguments after --")
        if extra:
            refuse(extra, options.run_options)
        command: Callable[[argparse.Namespace], int] = options.function
        return command(options)
    except KvmtestError as error:
        print(f"kvmtest: {_line(error)}", file=sys.stderr)  # noqa: T201
        return unfit or error.exit_status
    except KeyboardInterrupt:
        print("kvmtest: interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except BrokenPipeError:
        return 141
    except OSError as error:
        print(f"kvmtest: {_line(error)}", file=sys.stderr)  # noqa: T201
        return unfit or 3
    except SystemExit as end:
        # argparse, which has said why.
        if end.code and unfit:
            return unfit
        raise
    except Exception:
        # Python's own status for it is 1, which would say that a property FAILs.
        traceback.print_exc()
        print("kvmtest: this is a bug of kvmtest: please report it", file=sys.stderr)  # noqa: T201
        return unfit or 3


def _open_standard_streams() -> None:
    """Open what the caller closed (>&-), else the next file of ours would get its number.

    Nobody would write to such a file by mistake alone: a child's own 0, 1 and 2 replace it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # It gets the lowest free number.
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    # What the stream's encoding lacks is shown as a number, and costs nothing else.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _forget_stdout() -> None:
    """Drop what nobody reads, so that it is not tried again at exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split off what comes after ``--``."""
    at = argv.index("--") if "--" in argv else len(argv)
    return argv[:at], argv[at + 1 :]


@cache
def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="kvmtest",
        description="Prove whether KVM keeps the host's FREEZE_IN_SMM in force while guests run.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"kvmtest {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        name: str,
        function: Callable[[argparse.Namespace], int],
        words: str,
        to: "argparse._SubParsersAction[_Parser]" = commands,
        epilog: str = "",
    ) -> argparse.ArgumentParser:
        made = to.add_parser(
            name,
            help=words,
            description=words,
            epilog=epilog,
            allow_abbrev=False,
        )
        made.set_defaults(function=function)
        return made

    doctor = add(
        "doctor", _doctor, "what this machine can prove, what it can't, why, and what to do"
    )
    doctor.add_argument("--json", action="store_true", help="facts and answers as JSON")
    _add_root(doctor)

    listing = add("list", _list, "the properties: their claims, witnesses and markers")
    listing.add_argument("--json", action="store_true", help="the table as JSON")

    run = add("run", _run, "decide the properties on this machine", epilog=EXIT)
    _add_verdict_options(run)
    run.add_argument("--dry-run", action="store_true", help="list every host change, make none")
    run.add_argument("-q", "--quiet", action="store_true", help="print no tables")
    run.add_argument("--allow-other-vms", action="store_true", help="run beside other VMs")
    run.add_argument(
        "--reload-modules",
        action="store_true",
        help="reload the KVM module, with other parameters, for properties that need it",
    )
    _add_root(run)
    run.usage = "kvmtest run [options] [-- PYTEST ARGS]"
    run.set_defaults(run_options={name for a in run._actions for name in a.option_strings})

    restore = add("restore", _restore, "undo what a dead run left")
    _add_root(restore)

    report = add("report", _report, "show the evidence of a run")
    report.add_argument(
        "evidence",
        metavar="EVIDENCE",
        type=_path,
        help="an evidence.json, or the folder that holds it",
    )
    form = report.add_mutually_exclusive_group()
    form.add_argument("--ktap", action="store_true", help="print KTAP")
    form.add_argument("--junit", metavar="FILE", type=_path, help="write JUnit XML to a file")
    form.add_argument(
        "--plots",
        metavar="DIR",
        type=_path,
        help="draw the leak experiment, as SVG and PNG, to a folder",
    )

    finding = add("finding", _finding, "what was found out about known defects of kernels")
    finding.add_argument(
        "name", metavar="NAME", nargs="?", help="print this finding (without: list them)"
    )

    replay = add(
        "replay",
        _replay,
        "judge the readings of a recorded run again",
        epilog="exit status: 0 the same verdicts, 1 some differ, 2 usage, 3 unreadable evidence",
    )
    replay.add_argument(
        "evidence",
        metavar="EVIDENCE",
        type=_path,
        help="an evidence.json, or the folder that holds it",
    )

    lab = commands.add_parser("lab", help="emulated machines", allow_abbrev=False)
    labs = lab.add_subparsers(dest="lab_command", required=True, metavar="COMMAND")
    lab_run = add(
        "run", _lab_run, "run the suite on a kernel in an emulated machine", to=labs, epilog=EXIT
    )
    _add_machine(lab_run)
    _add_parameters(lab_run)
    _add_verdict_options(lab_run)
    lab_run.usage = "kvmtest lab run [options] [run options]"

    add("list", _lab_list, "the kernels that Debian's archive offers to the lab", to=labs)

    survey = add(
        "survey",
        _lab_survey,
        "run the suite on a list of kernels, and write kernels.json and kernels.md",
        to=labs,
    )
    survey.add_argument("kernels", metavar="KERNEL", nargs="+", help="as --kernel of lab run")
    survey.add_argument(
        "-o",
        metavar="DIR",
        type=_path,
        dest="output",
        default=Path(),
        help="the folder for both files (default: .)",
    )
    _add_emulator(survey)
    _add_parameters(survey)

    mutants = add(
        "mutants",
        _lab_mutants,
        "break KVM on purpose, one line at a time, and see which property notices",
        to=labs,
        epilog="exit status: 0 no mutant survived, 1 some did, 2 usage, 3 something broke, "
        "4 none was decided",
    )
    _add_machine_name(mutants)
    _add_kernel(mutants)
    mutants.add_argument(
        "--only", metavar="NAME", action="append", default=[], help="this mutant alone"
    )
    mutants.add_argument(
        "-o",
        metavar="DIR",
        type=_path,
        dest="output",
        help="write the matrix, and the evidence of every run, to a new folder",
    )

    smi = commands.add_parser("smi", help="sources of SMIs", allow_abbrev=False)
    about_smis = smi.add_subparsers(dest="smi_command", required=True, metavar="COMMAND")
    probe = add(
        "probe",
        _smi_probe,
        "which SMI sources work here, proved by a count of SMIs",
        to=about_smis,
        epilog="exit status: 0 some source is proved, 2 usage, 3 another run holds the machine, "
        "4 no source is proved",
    )
    _add_smi_source(probe, "--source")
    probe.add_argument(
        "--rate", metavar="HZ", type=_rate, default=2.0, help="triggers a second (default: 2)"
    )
    probe.add_argument(
        "--count", metavar="N", type=_count, default=10, help="triggers (default: 10)"
    )
    probe.add_argument("--json", action="store_true", help="the proofs as JSON")
    _add_root(probe)

    kernel = commands.add_parser("kernel", help="facts about kernels", allow_abbrev=False)
    about = kernel.add_subparsers(dest="kernel_command", required=True, metavar="COMMAND")
    inspect = add(
        "inspect", _inspect, "is the fix in the running kernel? (0 yes, 1 no, 4 unknown)", to=about
    )
    _add_root(inspect)
    return parser


def _add_verdict_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        metavar="DIR",
        type=_path,
        dest="output",
        help="write evidence.json, junit.xml, ktap.txt, kernel.log and plots to a new folder",
    )
    parser.add_argument(
        "--only",
        metavar="ID",
        action="append",
        default=[],
        help="decide this property alone (may be given again)",
    )
    parser.add_argument(
        "--require",
        metavar="X",
        action="append",
        default=[],
        help="FAIL unless ID is decided, witness:NAME speaks wherever it can be asked, or "
        "feature:NAME is here (may be given again)",
    )
    parser.add_argument(
        "--bisect",
        action="store_true",
        help="exit 0 good, 1 bad, 125 otherwise, for git bisect run",
    )
    parser.add_argument("--strict", action="store_true", help="count known defects as FAIL")
    _add_smi_source(parser, "--smi-source")


def _add_smi_source(parser: argparse.ArgumentParser, option: str) -> None:
    parser.add_argument(
        option,
        metavar="NAME",
        type=_smi_source,
        dest="smi_source",
        help="what raises SMIs: lab, efivar[:VARIABLE], efivarfs-statfs, dell-smm-hwmon, "
        "efivar-refused; by name alone: passive, command:CMD, efivar-write[:VARIABLE], dcdbas, "
        "apm-port[:VALUE] (default: the gentlest that proves itself)",
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    _add_emulator(parser)
    _add_kernel(parser)
    parser.add_argument(
        "--modules",
        metavar="DIR",
        type=Path,
        help="a folder with a kvm.ko or kvm-intel.ko to lay over the kernel's own, or with all the "
        "modules that it loads",
    )
    parser.add_argument(
        "--show-cpu-feature",
        metavar="F",
        dest="cpu_features",
        action="append",
        default=[],
        help="show guests a CPUID feature that the CPU lacks: rtm",
    )
    parser.add_argument(
        "--cold", action="store_true", help="boot the kernel, and do not restore a saved machine"
    )
    parser.add_argument(
        "--deadline",
        metavar="S",
        type=_seconds,
        default=900.0,
        help="give up after this many seconds (default: 900)",
    )


def _add_machine_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--machine",
        choices=["intel", "amd", "amd-uefi"],
        default="intel",
        help="which machine (default: intel)",
    )


def _add_emulator(parser: argparse.ArgumentParser) -> None:
    _add_machine_name(parser)
    parser.add_argument(
        "--cpus",
        metavar="N",
        type=int,
        choices=[1, 2],
        help="CPUs, 1 or 2 (default: intel 1, which is fast; amd 2)",
    )


def _add_parameters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kvm-parameter",
        metavar="MODULE.NAME=VALUE",
        dest="parameters",
        action="append",
        default=[],
        help="load kvm, kvm_intel or kvm_amd with it, such as kvm_intel.enable_mediated_pmu=1",
    )


def _add_kernel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kernel",
        metavar="K",
        action="append",
        help="a linux-image .deb (given again: its other .debs) or a folder of them, an unpacked "
        "tree, a build tree, a bzImage, or a version for Debian's archive (default: newest 6.12)",
    )


def _add_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root",
        metavar="DIR",
        type=_root,
        default=Path("/"),
        help="read and change the host's files below DIR: a stand-in tree",
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    # What poll(2) can wait for, which leaves out nan and inf.
    if 0 < seconds <= 86400:
        return seconds
    raise argparse.ArgumentTypeError(f"{text}: it takes from 1 to 86400 seconds")


def _smi_source(text: str) -> str:
    from kvmtest.smi import split

    try:
        split(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) <= 100_000:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text}: it takes from 1 to 100000")


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if 0.01 <= rate <= 10_000:
        return rate
    raise argparse.ArgumentTypeError(f"{text}: it takes from 0.01 to 10000 Hz")


def _path(text: str) -> Path:
    if text:
        return Path(text)
    raise argparse.ArgumentTypeError("it takes a name, and this is empty")


def _root(text: str) -> Path:
    try:
        _path(text)
        path = Path(text).resolve(strict=True)
        if path.is_dir():
            return path
        problem = "it is no folder"
    except (OSError, RuntimeError) as error:
        problem = getattr(error, "strerror", None) or "its links go round in a circle"
    raise argparse.ArgumentTypeError(f"{text}: {problem}")


def _doctor(options: argparse.Namespace) -> int:
    from kvmtest.report.doctor import as_dict, show

    if options.json:
        print(json.dumps(as_dict(options.root), indent=1))  # noqa: T201
    else:
        show(options.root)
    return 0


def _list(options: argparse.Namespace) -> int:
    if options.json:
        from dataclasses import asdict

        from kvmtest.properties import PROPERTIES

        print(json.dumps([asdict(p) for p in PROPERTIES], indent=1))  # noqa: T201
        return 0
    from kvmtest.report.terminal import console, properties_table

    console().print(properties_table())
    return 0


def _run(options: argparse.Namespace) -> int:
    with Interruption() as interruption:
        from kvmtest.run import Options, run

        wanted = Options(
            command=options.command_line,
            root=options.root,
            output=options.output,
            only=options.only,
            require=options.require,
            bisect=options.bisect,
            dry_run=options.dry_run,
            allow_other_vms=options.allow_other_vms,
            quiet=options.quiet,
            reload_modules=options.reload_modules,
            smi_source=options.smi_source,
            strict=options.strict,
            pytest_args=options.pytest_args,
        )
        try:
            return run(wanted, interruption)
        except KeyboardInterrupt:
            print("kvmtest: interrupted", file=sys.stderr)  # noqa: T201
            return 128 + interruption.signal


def _lab_run(options: argparse.Namespace) -> int:
    from kvmtest.checks.demands import asked_for
    from kvmtest.lab.run import Options, run

    # Refused inside the machine they would have cost a boot.
    asked_for(options.only, options.require)
    words = [f"--only={property_id}" for property_id in options.only]
    words += [f"--require={text}" for text in options.require]
    words += [f"--smi-source={options.smi_source}"] * (options.smi_source is not None)
    words += ["--strict"] * options.strict + ["--bisect"] * options.bisect
    return run(
        Options(
            machine=options.machine,
            kernel=options.kernel,
            modules=options.modules,
            cpus=options.cpus,
            cpu_features=tuple(options.cpu_features),
            parameters=tuple(options.parameters),
            cold=options.cold,
            deadline=options.deadline,
            output=options.output,
            run_options=words,
        )
    )


def _lab_list(options: argparse.Namespace) -> int:
    from kvmtest.cache import Cache
    from kvmtest.kernels.archive import Archive
    from kvmtest.report.terminal import console, kernels_table

    def tell(step: str) -> None:
        print(f"kvmtest: lab: {step}", file=sys.stderr)  # noqa: T201

    offers = Archive(Cache.default(), tell).offers()
    rows = [(o.release, o.debian_version, ", ".join(o.suites)) for o in offers]
    console().print(kernels_table(rows))
    return 0


def _lab_survey(options: argparse.Namespace) -> int:
    from kvmtest.lab.survey import run

    where = options.output, options.machine, options.cpus
    return run(options.kernels, *where, tuple(options.parameters))


def _lab_mutants(options: argparse.Namespace) -> int:
    from kvmtest.lab.mutants.run import Options, run

    return run(Options(options.machine, options.kernel, options.only, options.output))


def _restore(options: argparse.Namespace) -> int:
    from kvmtest.host.changes.journal import restore
    from kvmtest.host.tree import Tree

    restored = restore(Tree(options.root))
    for line in restored.undone:
        print(f"undone: {line}")  # noqa: T201
    for line in restored.failed:
        print(f"kvmtest: not undone: {line}", file=sys.stderr)  # noqa: T201
    if restored.failed:
        return 3
    if restored.rebooted:
        print("the machine was rebooted since that run: nothing more of it is left")  # noqa: T201
    elif not restored.undone:
        print("nothing to restore: no dead run left anything")  # noqa: T201
    return 0


def _report(options: argparse.Namespace) -> int:
    from kvmtest.evidence import load

    evidence = load(options.evidence)
    if options.ktap:
        from kvmtest.report.files import ktap_of

        sys.stdout.write(ktap_of(evidence))
    elif options.junit:
        from kvmtest.evidence.file import write_to
        from kvmtest.report.files import junit_of

        write_to(options.junit, junit_of(evidence))
    elif options.plots:
        from kvmtest.report.plots import write_plots

        if not write_plots(evidence, options.plots):
            raise EnvironmentUnfit(
                f"{options.evidence}: no result has samples to draw; name a run that decided a "
                "property by the witness leak"
            )
    else:
        from kvmtest.report.terminal import show_evidence

        show_evidence(evidence)
    return 0


def _finding(options: argparse.Namespace) -> int:
    from kvmtest.findings import findings, read

    if options.name is not None:
        sys.stdout.write(read(options.name))
        return 0
    from kvmtest.report.terminal import console, facts_table

    console().print(facts_table(findings().items()))
    return 0


def _smi_probe(options: argparse.Namespace) -> int:
    from kvmtest.report.smi import probe

    return probe(
        options.root,
        options.smi_source,
        triggers=options.count,
        rate_hz=options.rate,
        as_json=options.json,
    )


def _replay(options: argparse.Namespace) -> int:
    from kvmtest.replay import run

    return run(options.evidence)


def _inspect(options: argparse.Namespace) -> int:
    from kvmtest.report.kernel import show

    return show(options.root)


if __name__ == "__main__":
    sys.exit(main())
