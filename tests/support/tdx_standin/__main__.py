"""Run a command on a stand-in TDX host: ``python -m support.tdx_standin [options] -- COMMAND``."""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from .faults import FAULTS, HARDSHIPS
from .standin import StandIn


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m support.tdx_standin")
    parser.add_argument("--fault", action="append", default=[], choices=FAULTS)
    parser.add_argument("--hardship", action="append", default=[], choices=HARDSHIPS)
    parser.add_argument("--tree", type=Path, help="where the host's files are made")
    parser.add_argument("--record", type=Path, help="where to write what was seen, as JSON")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = options.tree or Path(folder) / "host"
        wrong = (*options.fault, *options.hardship)
        ended = StandIn(root, os.cpu_count() or 1, wrong).run(options.command)
    if options.record:
        options.record.write_text(json.dumps(asdict(ended), indent=1))
    return ended.status


sys.exit(main())
