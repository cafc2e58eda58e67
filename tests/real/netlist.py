"""A small design for nextpnr, written as a netlist in Yosys's JSON form.

Taken by `tests/real/test_nextpnr.py`. The design is a register that feeds back into itself through
one look-up table a bit, so that every bit depends on three others and the placer has work to do.
"""

from __future__ import annotations

import json
from typing import Any

_XOR3 = "1001011010010110"
"""SB_LUT4's table for I0 ^ I1 ^ I2 ^ I3, most significant entry first (I3 is tied to 0)."""


def feedback_register(width: int) -> str:
    """The JSON netlist of a register of `width` bits: next[i] = now[i-1] ^ now[i-3] ^ now[3i+1].

    Ports: `clk` in, `out` out (8 bits, of the register's low end).
    """
    clk = 2
    now = list(range(3, 3 + width))
    nxt = list(range(3 + width, 3 + 2 * width))
    cells: dict[str, Any] = {}
    for i in range(width):
        taps = [now[(i - 1) % width], now[(i - 3) % width], now[(3 * i + 1) % width]]
        cells[f"lut{i}"] = _cell(
            "SB_LUT4",
            {"LUT_INIT": _XOR3},
            {"I0": [taps[0]], "I1": [taps[1]], "I2": [taps[2]], "I3": ["0"], "O": [nxt[i]]},
            outputs={"O"},
        )
        cells[f"bit{i}"] = _cell(
            "SB_DFF", {}, {"C": [clk], "D": [nxt[i]], "Q": [now[i]]}, outputs={"Q"}
        )
    top = {
        "attributes": {"top": "00000000000000000000000000000001"},
        "ports": {
            "clk": {"direction": "input", "bits": [clk]},
            "out": {"direction": "output", "bits": now[:8]},
        },
        "cells": cells,
        "netnames": {
            "clk": {"hide_name": 0, "bits": [clk], "attributes": {}},
            "now": {"hide_name": 0, "bits": now, "attributes": {}},
            "nxt": {"hide_name": 0, "bits": nxt, "attributes": {}},
        },
    }
    return json.dumps({"creator": "wasmsr tests", "modules": {"top": top}})


def _cell(
    kind: str, parameters: dict[str, str], connections: dict[str, Any], outputs: set[str]
) -> dict[str, Any]:
    return {
        "hide_name": 0,
        "type": kind,
        "parameters": parameters,
        "attributes": {},
        "port_directions": {port: "output" if port in outputs else "input" for port in connections},
        "connections": connections,
    }
