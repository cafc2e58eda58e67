"""Moves between two nodes whose certificates are renewed meanwhile; `rolling.py` makes more."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="cryptography is not installed")
from tests.node.rolling import PLACES, roll

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are confined on Linux")


@pytest.mark.full
def test_each_line_is_there_once_while_certificates_are_renewed(tmp_path: Path) -> None:
    found = roll(tmp_path, 3 * PLACES, None, 4, None)
    assert found["each_once"] and found["lines"] > 100
