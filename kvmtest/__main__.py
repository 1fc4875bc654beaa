"""``python -m kvmtest`` is the command kvmtest."""

import sys

from kvmtest.cli import main

sys.exit(main())
