"""A log that is cut while somebody reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from wasmsr.executor.output.frames import FRAMES_FILE, cut_frames
from wasmsr.jobs.execution import log
from wasmsr.jobs.execution.log import LogFrame, LogItem, LogRewound, read_log, rewind_log

SIZE = len(LogFrame(1, b"old 0\n", 0, 0).encode())
"""Bytes of each frame of these tests."""


def grow(folder: Path, *lines: str) -> None:
    with (folder / FRAMES_FILE).open("ab") as file:
        for line in lines:
            file.write(LogFrame(1, line.encode(), 0, 0).encode())


def shown(items: Iterator[LogItem] | list[LogItem]) -> bytes:
    """What a reader has in the end who takes back what was rewound."""
    found = b""
    for item in items:
        if isinstance(item, LogRewound):
            found = found[: item.offset // SIZE * 6]
        else:
            assert item.offset == len(found) // 6 * SIZE
            found += item.data
    return found


@pytest.mark.parametrize("before", range(5))
@pytest.mark.parametrize("between", range(8))
def test_a_reader_at_any_moment_of_a_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, between: int
) -> None:
    """It reads so many items before the cut, and others after it has heard of it."""
    grow(tmp_path, "old 0\n", "old 1\n", "old 2\n", "old 3\n")
    over = False
    items = read_log(tmp_path, ended=lambda: over)
    seen = [next(items) for _ in range(before)]

    def cut(folder: Path, ends: dict[str, int]) -> None:
        # What it had read already, that it was cut, and the frames that are still there.
        there = 4 - before + 1 + 3 if before else 4
        seen.extend(next(items) for _ in range(min(between, there)))
        cut_frames(folder, ends)

    monkeypatch.setattr(log, "cut_frames", cut)
    rewind_log(tmp_path, {FRAMES_FILE: SIZE})
    grow(tmp_path, "new 1\n", "new 2\n", "new 3\n", "new 4\n")
    over = True
    seen.extend(items)
    assert shown(seen) == b"old 0\nnew 1\nnew 2\nnew 3\nnew 4\n"
