"""Records behave as the dataclasses do that type checkers take them for."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass

import pytest

from wasmsr.record import record, replaced


@record(frozen=True)
class Point:
    """A record."""

    x: int
    y: int = 2


@dataclass(frozen=True)
class Twin:
    """The same as a dataclass."""

    x: int
    y: int = 2


@record
class Box:
    """One that can change, and looks at itself when it is made."""

    size: int
    colour: str = "red"

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("size")


class Small(Box):
    """One that is derived from a record."""


@pytest.mark.parametrize("kind", [Point, Twin])
def test_values(kind: type[Point]) -> None:
    point = kind(1)
    assert (point.x, point.y) == (1, 2)
    assert kind(1, 2) == kind(x=1, y=2) == kind(1, y=2) == point != kind(1, 3)
    other: object = (1, 2)
    assert point != other
    assert hash(kind(1)) == hash(point)
    assert repr(point) == f"{kind.__name__}(x=1, y=2)"
    assert vars(point) == {"x": 1, "y": 2}
    match point:
        case Point(x, y) | Twin(x, y):
            assert (x, y) == (1, 2)
    assert pickle.loads(pickle.dumps(point)) == copy.copy(point) == point


@pytest.mark.parametrize("kind", [Point, Twin])
@pytest.mark.parametrize(
    ("values", "named"),
    [((), {}), ((1, 2, 3), {}), ((1,), {"x": 1}), ((1,), {"z": 1}), ((), {"y": 1})],
)
def test_wrong_values(kind: type[Point], values: tuple[int, ...], named: dict[str, int]) -> None:
    with pytest.raises(TypeError):
        kind(*values, **named)


@pytest.mark.parametrize("kind", [Point, Twin])
def test_frozen(kind: type[Point]) -> None:
    point = kind(1)
    with pytest.raises(AttributeError):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del point.y
    assert point == kind(1)


def test_changes() -> None:
    box = Box(1)
    box.size = 3
    assert box == Box(3) != Small(3)
    with pytest.raises(TypeError, match="unhashable"):
        hash(box)
    with pytest.raises(ValueError, match="size"):
        Box(-1)
    assert replaced(Point(1), y=5) == Point(1, 5)
    assert replaced(Small(3), colour="blue") == Small(3, "blue")
