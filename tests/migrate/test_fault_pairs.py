"""The command that runs all pairs of faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.migrate import fault_pairs
from tests.migrate.ends import Fault
from tests.migrate.test_faults import no_sync

__all__ = ["no_sync"]

LATE = Fault("b", "after HANDED is on disk", "kill")
WRONG = "somebody is wrong"


class Done:
    """A future that has its value."""

    def __init__(self, value: object) -> None:
        self.value = value

    def result(self) -> object:
        return self.value


def test_what_is_done_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[Fault] = []

    class Pool:
        """A pool that does the work at once."""

        def __init__(self, jobs: int) -> None:
            pass

        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def submit(self, call: object, first: Fault, durable: str) -> Done:
            ran.append(first)
            return Done((7, [WRONG] if len(ran) == 2 else []))

    monkeypatch.setattr(fault_pairs, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(fault_pairs, "as_completed", list)
    monkeypatch.setattr(fault_pairs, "firsts", lambda durable: [LATE, Fault("a", "x", "lose")])
    words = ["--file", str(tmp_path / "done"), "--durable", "ready"]
    assert fault_pairs.main([*words, "--minutes", "0"]) == 2
    assert not ran
    assert fault_pairs.main(words) == 1
    assert WRONG in capsys.readouterr().out
    assert fault_pairs.main(words) == 1, "what was wrong stays so"
    assert len(ran) == 2
    assert "ready: 2 first faults, 14 pairs, 1 wrong" in capsys.readouterr().out


def test_the_pairs_of_one_fault() -> None:
    late = list(fault_pairs.firsts("ready"))[-10]
    count, wrong = fault_pairs.run(late, "ready")
    assert count and not wrong
