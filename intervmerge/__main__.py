"""`python -m intervmerge`: the same as `intervmerge`."""

from __future__ import annotations

import sys

from intervmerge.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
