"""Tell what changed between two runs: python tools/compare_runs.py OLD NEW [--figures].

Times and the journal's changes are left out; so are numbers, which differ from run to run, without
``--figures``. Exit status: 0 no verdict differs, 1 some do.
"""

import argparse
from pathlib import Path

from kvmtest.evidence import load
from kvmtest.evidence.compare import compare


def main() -> int:
    """Print the differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path, help="an evidence.json, or the folder that holds it")
    parser.add_argument("new", type=Path, help="the other")
    parser.add_argument("--figures", action="store_true", help="tell numbers that differ, too")
    options = parser.parse_args()
    compared = compare(load(options.old), load(options.new))
    for line in compared.lines(figures=options.figures):
        print(line)  # noqa: T201
    count = f"{len(compared.changed)} of {len(compared.properties)}"
    print(f"{count} verdicts differ")  # noqa: T201
    return 1 if compared.changed else 0


if __name__ == "__main__":
    raise SystemExit(main())
