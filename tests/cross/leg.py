"""A leg of a journey, on whatever CPU this is: `python -m tests.cross.leg FROM TO [FUEL]`

Goes on with the snapshot FROM, which holds its modules, for so many instructions or to its end,
leaves in TO where it stands, and prints the bits of its results, or null where it has not ended.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from wasmsr import Finished, Paused, Snapshot


def go_on(source: Path, target: Path, fuel: int | None) -> tuple[int, ...] | None:
    """The results, or None where it has not ended.

    Raises:
        AssertionError: it ended in another way.
    """
    with Snapshot.load(source).restore() as store:
        store.check()
        outcome = store.run(fuel=fuel)
        assert isinstance(outcome, (Finished, Paused)), outcome
        Snapshot.of(store, embed=True).save(target)
        return outcome.raw if isinstance(outcome, Finished) else None


def main(source: str, target: str, fuel: str | None = None) -> None:
    """The leg, with words of the command line."""
    print(json.dumps(go_on(Path(source), Path(target), None if fuel is None else int(fuel))))


if __name__ == "__main__":
    main(*sys.argv[1:])
