"""`python -m netsonde`, and the target of the `netsonde` console script."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
