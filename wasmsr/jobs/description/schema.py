"""What the schema of job files finds wrong with plain data, in sentences."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import jsonschema

from wasmsr.jobs.description.yaml_tree import Path

SCHEMA_FILE = "job.schema.json"

WORDS = {
    "string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false",
    "array": "a list", "object": "a map of keys", "null": "nothing",
}  # fmt: skip
"""What JSON Schema calls a type, and what we call it."""

SHOWN = 60
"""Characters of a value that a sentence shows."""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a job.

    Attributes:
        path: Where in the file it is.
        sentence: What is wrong.
        hint: What to do, or "".
        code: The code of its error.
    """

    path: Path
    sentence: str
    hint: str = ""
    code: str = "SpecError"


@cache
def schema() -> Mapping[str, Any]:
    """Return the schema, as JSON Schema of 2020-12 has it."""
    text = resources.files(__package__).joinpath(SCHEMA_FILE).read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


@cache
def _validator() -> Any:
    return jsonschema.Draft202012Validator(schema())


def parameter_names(kind: str) -> tuple[str, ...]:
    """Return the keys that a definition of the schema has."""
    return tuple(schema()["$defs"][kind]["properties"])


def problems(data: Any) -> list[Problem]:
    """Return what is wrong with plain data, from the first to the last place."""
    found: list[Problem] = []
    for error in _validator().iter_errors(data):
        found.extend(_sentences(error))
    return sorted(found, key=lambda one: [str(part) for part in one.path])


def _sentences(error: Any) -> Iterator[Problem]:
    """Yield what an error of the validator means."""
    path: Path = tuple(error.absolute_path)
    what, value, rule = name_of(path), error.instance, error.validator_value
    match error.validator:
        case "additionalProperties":
            known = list(error.schema.get("properties", ()))
            for key in value.keys() - set(known):
                near = difflib.get_close_matches(str(key), known, 1, 0.6)
                near = near or [one for one in known if one.lower() == str(key).lower()]
                hint = f"did you mean {near[0]}?" if near else f"it can have {_list(known)}"
                yield Problem((*path, key), f"{what} has no key {_shown(key)}", hint)
        case "required":
            for key in rule:
                if key not in value:
                    yield Problem(path, f"{what} lacks the key {key}")
        case "type":
            hint = ""
            if rule == "string" and isinstance(value, (bool, int, float)):
                text = _shown(value).lower() if isinstance(value, bool) else _shown(value)
                hint = f'put it in quotes: "{text}"'
            yield Problem(path, f"{what} is {kind_of(value)}, not {WORDS[rule]}", hint)
        case "enum":
            near = difflib.get_close_matches(str(value), rule, 1, 0.6)
            near = near or [one for one in rule if one.lower() == str(value).lower()]
            hint = f"did you mean {near[0]}?" if near else f"it can be {_list(rule, 'or')}"
            yield Problem(path, f"{what} cannot be {_shown(value)}", hint)
        case "minItems" | "maxItems":
            yield Problem(path, f"{what} must have exactly one element; it has {len(value)}")
        case "minLength":
            yield Problem(path, f"{what} is empty")
        case "maxLength":
            yield Problem(path, f"{what} has more than {rule} characters")
        case "minimum":
            yield Problem(path, f"{what} is less than {rule}")
        case "maximum":
            yield Problem(path, f"{what} is more than {rule}")
        case "pattern":
            yield Problem(path, f"{what} has a NUL character")
        case _:
            yield Problem(path, f"{what}: {error.message}"[:400])


def name_of(path: Path) -> str:
    """Return a value's name for people, such as `Tasks[0].Engine.Type`."""
    text = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in path)
    return text.lstrip(".") or "the job"


def kind_of(value: Any) -> str:
    """Return what a value is, for people."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {_shown(value)}"
    return (
        "text"
        if isinstance(value, str)
        else WORDS["array" if isinstance(value, list) else "object"]
    )


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _list(words: list[str], last: str = "and") -> str:
    if len(words) < 2:
        return "".join(words) or "no keys"
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


__all__ = ["Problem", "kind_of", "name_of", "parameter_names", "problems", "schema"]
