#!/usr/bin/env python3
"""Writes the film that `transcoding` reads: a small moving pattern in YUV4MPEG2.

    make_input.py [--width W] [--height H] [--frames N] OUTPUT

Rings grow from the middle, stripes run over them, a disc goes round, and the colours drift; after
N frames the film is where it began, so it can be repeated without a jump. Integers only: the same
options give the same bytes everywhere. `sample.y4m` of this folder is what the defaults give.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

DEFAULT_WIDTH, DEFAULT_HEIGHT, DEFAULT_FRAMES = 128, 96, 8


def wave(position: int, period: int) -> int:
    """A triangle wave between 0 and 255."""
    return abs(2 * (position % period) - period) * 255 // period


def disc_centre(width: int, height: int, step: int, steps: int) -> tuple[int, int]:
    """Where the disc is: on a diamond around the middle, once round in `steps`."""
    across = wave(4096 * step // steps, 4096)
    down = wave(4096 * step // steps + 1024, 4096)
    return width // 4 + width * across // 510, height // 4 + height * down // 510


def luma(width: int, height: int, step: int, steps: int) -> Iterator[int]:
    centre_x, centre_y = disc_centre(width, height, step, steps)
    radius = min(width, height) // 6
    for y in range(height):
        for x in range(width):
            if (x - centre_x) ** 2 + (y - centre_y) ** 2 < radius**2:
                yield 235
                continue
            from_middle = (x - width // 2) ** 2 + (y - height // 2) ** 2
            rings = wave(from_middle // 8 - 192 * step // steps, 192)
            stripes = wave(x + 2 * y + 64 * step // steps, 64)
            yield (3 * rings + stripes) // 4


def chroma(width: int, height: int, step: int, steps: int) -> tuple[bytes, bytes]:
    columns, rows = (width + 1) // 2, (height + 1) // 2
    drift = 128 * step // steps
    blue = bytes(64 + wave(x + drift, 128) // 2 for _ in range(rows) for x in range(columns))
    red = bytes(64 + wave(y - drift, 128) // 2 for y in range(rows) for _ in range(columns))
    return blue, red


def film(width: int, height: int, frames: int) -> Iterator[bytes]:
    """The pieces of the file: its header, then frame by frame."""
    yield f"YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C420jpeg XCOLORRANGE=FULL\n".encode()
    for step in range(frames):
        yield b"FRAME\n"
        yield bytes(luma(width, height, step, frames))
        yield from chroma(width, height, step, frames)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a small moving pattern as YUV4MPEG2.")
    parser.add_argument("--width", type=int, default=DEFAULT_WIDTH)
    parser.add_argument("--height", type=int, default=DEFAULT_HEIGHT)
    parser.add_argument("--frames", type=int, default=DEFAULT_FRAMES)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    if min(options.width, options.height, options.frames) < 1:
        parser.error("width, height and frames must be at least 1")
    with options.output.open("wb") as output:
        output.writelines(film(options.width, options.height, options.frames))


if __name__ == "__main__":
    main()
