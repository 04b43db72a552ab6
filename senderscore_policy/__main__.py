"""`python -m senderscore_policy`."""

import sys

from senderscore_policy.cli import main

sys.exit(main())
