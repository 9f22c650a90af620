"""`python -m repro` is the command line."""

import sys

from repro.cli import main

sys.exit(main())
