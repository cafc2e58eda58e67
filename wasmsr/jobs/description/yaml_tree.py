"""YAML as plain data, with the line of each value.

Scalars are read by the core schema of YAML 1.2 (section 10.3), so `yes` and `12:30` are text. JSON
is read too, because it is YAML. A file cannot make the reader recurse, or repeat what an alias
names without end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

FILE_LIMIT = 1 << 20
"""Bytes that a file may have."""

DEPTH_LIMIT = 32
"""How deep lists and maps may be nested."""

NODE_LIMIT = 50_000
"""Values that a file may have; what an alias names counts each time."""

Place = tuple[int, int]
"""Line and column, both from 1."""

Path = tuple[str | int, ...]
"""The keys and the numbers of elements that lead to a value."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]{1,40}")
_BASED = re.compile(r"0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,40}|[0-9]{1,40}(\.[0-9]{0,40})?)([eE][-+]?[0-9]{1,3})?")


class YamlProblem(ValueError):
    """What is wrong with a file: a place, or None, and a sentence."""

    def __init__(self, place: Place | None, sentence: str) -> None:
        super().__init__(sentence)
        self.place = place
        self.sentence = sentence


@dataclass
class YamlTree:
    """A file's content.

    Attributes:
        data: None, a bool, a number, text, or a list or dictionary of such.
        places: Where each value begins.
        keys: Where the key of each value of a dictionary begins.
    """

    data: Any = None
    places: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)

    def place(self, path: Path) -> Place | None:
        """Return where a value is; if it is not there, where the nearest one around it is."""
        for size in range(len(path), -1, -1):
            if found := self.keys.get(path[:size]) or self.places.get(path[:size]):
                return found
        return None


@dataclass
class _Open:
    """A list or dictionary whose end has not come.

    Attributes:
        value: What there is of it.
        path: Its path.
        anchor: Its anchor, or None.
        begin: How many nodes came before it.
        key: The key of the next value, if it is a dictionary and the key has come.
    """

    value: list[Any] | dict[str, Any]
    path: Path
    anchor: str | None
    begin: int
    key: str | None = None


def read_yaml(data: bytes) -> YamlTree:
    """Return what a file with one document holds.

    Raises:
        YamlProblem: It is no YAML, too large, or has what a job file cannot have.
    """
    if len(data) > FILE_LIMIT:
        raise YamlProblem(None, f"it has more than {FILE_LIMIT} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise YamlProblem((line, 1), "it is not UTF-8") from None
    try:
        loader = _LOADER(text)
    except yaml.YAMLError as error:
        raise _problem(error) from None
    try:
        return _Builder(loader).build()
    except yaml.YAMLError as error:
        raise _problem(error) from None
    finally:
        loader.dispose()


def _problem(error: yaml.YAMLError) -> YamlProblem:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        sentence = ", ".join(filter(None, (error.context, error.problem)))
        return YamlProblem(_place(mark) if mark else None, sentence)
    if isinstance(error, yaml.reader.ReaderError):
        return YamlProblem(None, f"character {error.character!r} is not allowed in YAML")
    return YamlProblem(None, str(error))


def _place(mark: Any) -> Place:
    return mark.line + 1, mark.column + 1


class _Builder:
    """Builds the tree from the events of the parser, which does not recurse."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._tree = YamlTree()
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._count = 0

    def build(self) -> YamlTree:
        """Return the tree. Raises YamlProblem, yaml.YAMLError."""
        documents = 0
        while self._loader.check_event():
            event = self._loader.get_event()
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise YamlProblem(_place(event.start_mark), "a second document begins")
            elif isinstance(event, yaml.NodeEvent):
                self._node(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._end()
        if not documents:
            raise YamlProblem(None, "it is empty")
        return self._tree

    def _node(self, event: Any) -> None:
        place = _place(event.start_mark)
        above = self._open[-1] if self._open else None
        if above is not None and isinstance(above.value, dict) and above.key is None:
            self._key(above, event, place)
            return
        path = self._next_path(above)
        self._count += 1
        self._tree.places.setdefault(path, place)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise YamlProblem(place, f"*{event.anchor} names nothing that came before")
            value, nodes = self._anchors[event.anchor]
            self._count += nodes
        elif isinstance(event, yaml.ScalarEvent):
            value = _scalar(event, place)
            if event.anchor is not None:
                self._anchors[event.anchor] = value, 1
        else:
            value = [] if isinstance(event, yaml.SequenceStartEvent) else {}
            _check_tag(event, place)
            if len(self._open) >= DEPTH_LIMIT:
                raise YamlProblem(place, f"it is nested deeper than {DEPTH_LIMIT}")
        if self._count > NODE_LIMIT:
            raise YamlProblem(place, f"it has more than {NODE_LIMIT} values")
        self._put(above, value)
        if isinstance(event, yaml.CollectionStartEvent):
            self._open.append(_Open(value, path, event.anchor, self._count))

    def _key(self, above: _Open, event: Any, place: Place) -> None:
        """Take the key of the next value of a dictionary."""
        assert isinstance(above.value, dict)
        if not isinstance(event, yaml.ScalarEvent):
            raise YamlProblem(place, "a key is one word, not a list, a map or an alias")
        if event.value == "<<" and event.implicit[0]:
            raise YamlProblem(place, "maps are not merged here; write the keys out")
        path = (*above.path, event.value)
        if event.value in above.value:
            line = self._tree.keys[path][0]
            raise YamlProblem(place, f"the key {event.value!r} is there already, in line {line}")
        self._tree.keys[path] = place
        above.key = event.value

    @staticmethod
    def _next_path(above: _Open | None) -> Path:
        if above is None:
            return ()
        if isinstance(above.value, list):
            return (*above.path, len(above.value))
        assert above.key is not None
        return (*above.path, above.key)

    def _put(self, above: _Open | None, value: Any) -> None:
        if above is None:
            self._tree.data = value
        elif isinstance(above.value, list):
            above.value.append(value)
        else:
            assert above.key is not None
            above.value[above.key] = value
            above.key = None

    def _end(self) -> None:
        done = self._open.pop()
        if done.anchor is not None:
            self._anchors[done.anchor] = done.value, self._count - done.begin + 1


def _check_tag(event: Any, place: Place) -> None:
    if event.tag not in (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
        raise YamlProblem(place, f"the tag {event.tag} means nothing here")


def _scalar(event: Any, place: Place) -> Any:
    """Return a scalar's value by the core schema."""
    text: str = event.value
    if event.tag == "tag:yaml.org,2002:str" or not event.implicit[0]:
        if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            raise YamlProblem(place, f"the tag {event.tag} means nothing here")
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


__all__ = ["FILE_LIMIT", "Path", "Place", "YamlProblem", "YamlTree", "read_yaml"]
