"""``python -m lightbsr``."""

import sys

from lightbsr_cli import console

sys.exit(console())
