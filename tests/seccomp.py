"""A host that forbids a system call, as the sandboxes of containers do (Linux, seccomp(2))."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Load the number; equal? return ERRNO | errno : return ALLOW.
_FILTER = """
import ctypes, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
answer = 0x50000 | int(sys.argv[2])
rows = [(0x20, 0, 0, 0), (0x15, 0, 1, int(sys.argv[1])), (6, 0, 0, answer), (6, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in rows))
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
program = Program(len(rows), ctypes.addressof(code))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program), 0, 0):
    sys.exit(77)
"""


def run_without(call: int, answer: int, code: str, root: Path, *words: str) -> None:
    """Run Python code in a process of its own, in which a system call answers an errno.

    Args:
        call: The number of the system call.
        answer: The errno.
        code: What runs there.
        root: Where it runs.
        words: Its arguments, from sys.argv[3] on.
    """
    # The sanitizers' build stays before the tree, where there is one.
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(root))))
    done = subprocess.run(
        [sys.executable, "-c", _FILTER + code, str(call), str(answer), *words],
        cwd=root,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    if done.returncode == 77:
        pytest.skip("no seccomp filter can be set here")
    assert done.returncode == 0, done.stderr
