"""Follows the log of `bench.jobs`' loud program, and checks each byte of it.

    python -m bench.log_follower FOLDER BLOCKS

A process of its own, because its peak of memory is what is measured; it prints that, in MiB.
"""

from __future__ import annotations

import sys
from pathlib import Path

from wasmsr.jobs.execution.log import LogFrame, read_log

BLOCK = 1 << 16
"""Bytes of a block: its number counts down in the first four, the others are x."""


def follow(log: Path, blocks: int) -> None:
    """Follow a log until it has all blocks.

    Args:
        log: The folder of the log.
        blocks: How many there are.
    """
    seen, rest = 0, b""
    over: list[bool] = []
    for item in read_log(log, ended=lambda: bool(over)):
        assert isinstance(item, LogFrame)
        rest += item.data
        while len(rest) >= BLOCK:
            assert int.from_bytes(rest[:4], "little") == blocks - seen
            assert rest.count(b"x", 4, BLOCK) == BLOCK - 4
            rest, seen = rest[BLOCK:], seen + 1
            if seen == blocks:
                over.append(True)
    assert (seen, rest) == (blocks, b"")


def peak() -> float:
    """Return the peak of this process's memory in MiB; that of `getrusage` has its parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(one.split()[1]) for one in status.splitlines() if one[:6] == "VmHWM:") / 1024


if __name__ == "__main__":
    follow(Path(sys.argv[1]), int(sys.argv[2]))
    print(peak())
