"""Run a command on a stand-in TDX host: ``python -m support.tdx_standin [options] -- COMMAND``."""

import argparse
import json
import re
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from .faults import FAULTS, HARDSHIPS
from .host import LACKS
from .standin import StandIn


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m support.tdx_standin")
    parser.add_argument("--fault", action="append", default=[], choices=FAULTS)
    parser.add_argument("--hardship", action="append", default=[], choices=HARDSHIPS)
    parser.add_argument("--lack", choices=LACKS, help="a link that the host is without")
    parser.add_argument("--tree", type=Path, help="where the host's files are made")
    parser.add_argument("--record", type=Path, help="where to write what was seen, as JSON")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = options.tree or Path(folder) / "host"
        wrong = (*options.fault, *options.hardship)
        ended = StandIn(root, _cpus(), wrong, LACKS.get(options.lack)).run(options.command)
    if options.record:
        options.record.write_text(json.dumps(asdict(ended), indent=1))
    return ended.status


def _cpus() -> int:
    """Return how many CPUs the host needs, so that each CPU of this machine is one of them."""
    online = Path("/sys/devices/system/cpu/online").read_text()
    return int(re.split("[-,]", online.strip())[-1]) + 1


sys.exit(main())
