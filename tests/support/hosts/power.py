"""Switch a namespaced host: ``power.py FOLDER ACTION HOST``, as a power driver calls it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from support.hosts import ask

ask(Path(sys.argv[1]), *sys.argv[2:])
