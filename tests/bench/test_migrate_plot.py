"""The picture of rounds: what is in it, from figures that are made up here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.migrate import plot

SVG = "{http://www.w3.org/2000/svg}"


def move(downtime: float, sets: list[int]) -> dict[str, Any]:
    return {
        "downtime": downtime,
        "rounds": [{"bytes_raw": size} for size in sets[:-1]],
        "last_raw": sets[-1],
    }


def found() -> dict[str, Any]:
    moves = [move(0.3, [1 << 30]), move(0.1, [1 << 30, 1 << 20, 4096]), move(0.01, [1])]
    cell = {"line": "loopback", "program": "1 <GiB>", "mode": "rounds", "cores": 2, "moves": moves}
    return {
        "cells": [
            cell,
            {**cell, "program": "other", "moves": [move(1, [1 << 25, 0])]},
            {**cell, "mode": "stop-and-copy", "line": "not drawn"},
            {**cell, "cores": 1, "line": "not drawn"},
        ]
    }


def test_the_move_in_the_middle_is_drawn() -> None:
    assert plot.panels(found()) == {
        "loopback": {"1 <GiB>": [1 << 30, 1 << 20, 4096], "other": [1 << 25, 0]}
    }


def test_a_ring_for_each_last_round_and_a_dot_for_each_other(tmp_path: Path) -> None:
    source, target = tmp_path / "found.json", tmp_path / "rounds.svg"
    source.write_text(json.dumps(found()))
    assert plot.main([str(source), "--output", str(target)]) == 0
    root = ElementTree.fromstring(target.read_text())
    circles = list(root.iter(f"{SVG}circle"))
    rings = [one for one in circles if one.get("fill") == "#fff"]
    assert (len(circles) - len(rings), len(rings)) == (3, 2)
    heights = [float(one.get("cy", "")) for one in circles]
    first, second, last = heights[:3]
    assert first < second < last, "more bytes are higher"
    assert heights[4] == pytest.approx(plot.HEIGHT - plot.BOTTOM), "nothing is at the bottom"
    texts = [one.text for one in root.iter(f"{SVG}text")]
    assert {"1 <GiB>", "other", "loopback", "1 GiB", "1 KiB"} <= set(texts)
    assert "not drawn" not in texts
    width = int(root.get("width", "0"))
    assert all(0 <= float(x) <= width for x in re.findall(r'cx="([\d.]+)"', target.read_text()))


def test_without_rounds_there_is_no_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "found.json").write_text('{"cells": []}')
    output = tmp_path / "out.svg"
    assert plot.main([str(tmp_path / "found.json"), "--output", str(output)]) == 1
    assert "nothing in this file moved in rounds" in capsys.readouterr().err
    assert not output.exists()
