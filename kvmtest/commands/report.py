"""kvmtest report
==============

Shows the evidence of a run.
"""

import argparse
import sys
from pathlib import Path

from kvmtest.errors import UsageError

from .parser import Commands, Parser, add_command

__all__ = ["add"]

_FORMS = ("ktap", "junit", "html", "kcidb", "markdown")


def add(commands: Commands) -> None:
    """Add the command."""
    add_command(commands, "report", run, "show the evidence of a run", _add_arguments)


def _add_arguments(parser: Parser) -> None:
    from kvmtest.run_options import option, path

    parser.add_argument(
        "evidence",
        metavar="EVIDENCE",
        nargs="+",
        type=path,
        help="an evidence.json, or its folder; for --html, --kcidb and --markdown also several, or "
        "folders of runs; for --html also the kernels.json of a survey",
    )
    option("verbose").add_to(parser)
    parser.add_argument(
        "--ktap", action="store_true", help="print KTAP; with -v each reading is a subtest"
    )
    parser.add_argument("--junit", metavar="FILE", type=path, help="write JUnit XML to FILE")
    parser.add_argument(
        "--html",
        metavar="FILE",
        type=path,
        help="write a page to FILE, with its figures; of several runs a matrix, with the page of "
        "each in a folder beside FILE. It needs no network and no scripts",
    )
    parser.add_argument(
        "--markdown", action="store_true", help="print Markdown, for a job summary of GitHub"
    )
    parser.add_argument(
        "--kcidb",
        metavar="FILE",
        type=path,
        help="write a document for KernelCI's database to FILE",
    )
    parser.add_argument(
        "--origin", metavar="NAME", help="the CI system that submits the document (kvmtest)"
    )
    parser.add_argument(
        "--build",
        metavar="ID",
        help="the build in KernelCI's database that was tested, ORIGIN:ID; else the document has "
        "builds of its own",
    )


def run(options: argparse.Namespace) -> int:
    """Print or write the evidence in the form that was asked for."""
    # A group of argparse's would be one long line of the usage.
    forms = [f"--{form}" for form in _FORMS if getattr(options, form)]
    if len(forms) > 1:
        raise UsageError(f"{' and '.join(forms)} are several forms; name one")
    if options.kcidb:
        return _kcidb(options)
    if options.origin is not None or options.build is not None:
        raise UsageError("--origin and --build are of a document: name it by --kcidb FILE")
    if options.html:
        from .report_html import run as write_html

        write_html(options.evidence, options.html)
        return 0
    if options.markdown:
        return _markdown(options)
    if len(options.evidence) > 1:
        raise UsageError("several runs make a matrix: name its page by --html FILE")
    _report(options, options.evidence[0])
    return 0


def _kcidb(options: argparse.Namespace) -> int:
    """Write the document; return 3 if some evidence could not be read."""
    from kvmtest.evidence.file import write_to
    from kvmtest.report.kcidb import ORIGIN, kcidb

    from .named_runs import NamedRuns

    named = NamedRuns(options.evidence)
    origin = ORIGIN if options.origin is None else options.origin
    write_to(options.kcidb, kcidb(named, origin, options.build or ""))
    return 3 if named.unread else 0


def _markdown(options: argparse.Namespace) -> int:
    """Print one run, or a table of several; return 3 if some evidence could not be read."""
    from kvmtest.report.markdown import markdown, markdown_of_runs

    from .named_runs import NamedRuns

    named = NamedRuns(options.evidence)
    if len(named) == 1:
        ((_, evidence),) = named
        sys.stdout.write(markdown(evidence))
    else:
        sys.stdout.write(markdown_of_runs(named))
    return 3 if named.unread else 0


def _report(options: argparse.Namespace, path: Path) -> None:
    from kvmtest.evidence import load

    evidence = load(path)
    if options.ktap:
        from kvmtest.report.files import ktap_of

        sys.stdout.write(ktap_of(evidence, subtests=options.verbose))
    elif options.junit:
        from kvmtest.evidence.file import EVIDENCE, write_to
        from kvmtest.report.files import junit_of
        from kvmtest.run_folder import attachments

        file = path / EVIDENCE if path.is_dir() else path
        write_to(options.junit, junit_of(evidence, attachments=attachments(file)))
    elif options.verbose:
        from kvmtest.report.terminal import show_evidence

        show_evidence(evidence)
    else:
        from kvmtest.report.screen import show_screen

        show_screen(evidence, str(path))
