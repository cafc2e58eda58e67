"""What real peers of a fleet said: recorded messages and frames."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PEER = next(
    (
        place
        for place in (one / "shared/vectors/silverline" for one in ROOT.parents)
        if place.exists()
    ),
    ROOT.parent / "shared/vectors/silverline",
)


def _lines(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    with suppress(OSError), open(PEER / name, encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    return found


MESSAGES, FRAMES = _lines("vectors.jsonl"), _lines("frames.jsonl")
needs_peer = pytest.mark.skipif(not MESSAGES, reason="needs ../shared/vectors")
