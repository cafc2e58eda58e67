"""`python -m wasmsr`: the same as the command `wasmsr`."""

from __future__ import annotations

import sys

from wasmsr.cli import main

if __name__ == "__main__":
    sys.exit(main())
