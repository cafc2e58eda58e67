"""Lets the guest's Python start itself: the program that it runs as is no program of the host's.

scripts/cross.py puts this folder into the guest's path and names the command that stands for it.
"""

from __future__ import annotations

import os
import sys

sys.executable = os.environ["WASMSR_GUEST"]
