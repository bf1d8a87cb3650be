"""`python -m headrace.cli`."""

import sys

from headrace.cli.entry import main

sys.exit(main())
