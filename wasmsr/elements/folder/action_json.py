"""The graph as JSON, in the form of Scad's `wskgen`."""

from __future__ import annotations

import base64
import binascii
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wasmsr import small_files
from wasmsr.elements.failures import ElementError
from wasmsr.elements.folder.element import Element, ElementGraph
from wasmsr.elements.folder.reading import LARGEST, element_of, read_folder
from wasmsr.errors import printable, reason

KINDS = {"python": "python:3", "wasm": "wasm"}
MEMORY_CODE = (
    'def main(params, action):\n    action.get_transport("memory", "rdma_server").serve()\n'
)
"""What a memory element does, for a peer that runs it as a function."""
MOST_MEGABYTES_OF_LOGS = 10
MILLISECONDS = 60_000


def action_json(graph: ElementGraph) -> dict[str, Any]:
    """Return the graph as Scad's tools have it; keys that they do not know come last."""
    objects = [_object(element) for element in graph]
    return {"functions": [{"name": graph.name, "objects": objects, "publish": True}],
            "publish": True}  # fmt: skip


def _object(element: Element) -> dict[str, Any]:
    code = element.code
    text = MEMORY_CODE if element.is_memory else (
        base64.b64encode(code).decode() if isinstance(code, bytes) else code
    )  # fmt: skip
    limits = element.limits
    params: dict[str, Any] = {
        "relationships": {
            "corunning": list(element.corunning),
            "dependents": list(element.dependents),
            "parents": list(element.parents),
        },
        "runtimeType": "memory" if element.is_memory else "compute",
        "withMerged": list(element.merged),
    }
    if element.parallelism is not None:
        params["parallelism"] = element.parallelism
    if element.retries:
        params["retries"] = element.retries
    names = {name: how["trans"] for name, how in element.corunning.items() if how.get("trans", name)
             != name}  # fmt: skip
    if names:
        params["transports"] = names
    return {
        "annotations": [{"key": "exec", "value": element.kind}],
        "exec": {"kind": KINDS[element.kind], "code": text, "binary": True, "main": "main"},
        "limits": {
            "concurrency": 1,
            "logs": MOST_MEGABYTES_OF_LOGS,
            "resources": {"cpu": limits.cpu, "mem": limits.mem, "storage": limits.storage},
            "timeout": MILLISECONDS,
        },
        "name": element.name,
        "parameters": [],
        "publish": False,
        "porusParams": params,
        "version": "0.0.1",
    }


def read_graph(path: Path) -> tuple[ElementGraph, list[str]]:
    """Return the graph of a folder or of a file of JSON, and its faults as sentences.

    Raises:
        ElementError: There is no graph at all.
    """
    if path.is_dir():
        return read_folder(path)
    try:
        data, _ = small_files.read(path, LARGEST)
        said = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise ElementError(f"{printable(path)}: {reason(error)}") from error
    faults: list[str] = []
    elements = []
    objects = _get(_get(said, "functions", list, path)[:1] or [{}], 0, dict, path)
    for one in _get(objects, "objects", list, path):
        try:
            elements.append(_element(one, path))
        except ElementError as error:
            faults.append(error.message)
    names = Counter(one.name for one in elements)
    faults += [f"two elements have the name {printable(name)}"
               for name, count in names.items() if count > 1]  # fmt: skip
    if not elements and not faults:
        raise ElementError(f"{printable(path)} has no elements")
    return ElementGraph(str(objects.get("name", path.stem)), elements), faults


def _get(found: Any, key: Any, kind: type | tuple[type, ...], path: Path) -> Any:
    try:
        value = found[key]
    except (KeyError, IndexError, TypeError):
        raise ElementError(f"{printable(path)}: {printable(key)} is missing") from None
    if not isinstance(value, kind):
        raise ElementError(f"{printable(path)}: {printable(key)} is of another type")
    return value


def _element(one: Any, path: Path) -> Element:
    get: Callable[..., Any] = lambda at, key, kind: _get(at, key, kind, path)  # noqa: E731
    name = get(one, "name", str)
    params, run = get(one, "porusParams", dict), get(one, "exec", dict)
    between = get(params, "relationships", dict)
    kinds = {text: kind for kind, text in KINDS.items()}
    kind = kinds.get(get(run, "kind", str))
    if kind is None:
        raise ElementError(f"{printable(name)}: a program of kind {printable(run['kind'])}")
    code: str | bytes = get(run, "code", str)
    if kind == "wasm":
        try:
            code = base64.b64decode(code, validate=True)
        except binascii.Error:
            raise ElementError(f"{printable(name)}: its code is no base64") from None
    transports = params.get("transports", {})
    if not isinstance(transports, dict):
        raise ElementError(f"{printable(name)}: transports is of another type")
    others = get(between, "corunning", list)
    corunning = {
        other: {"trans": transports.get(other, other)} for other in others if isinstance(other, str)
    }
    said = {
        "type": get(params, "runtimeType", str),
        "corunning": corunning,
        "parents": get(between, "parents", list),
        "dependents": get(between, "dependents", list),
        "limits": get(get(one, "limits", dict), "resources", dict),
        "withMerged": params.get("withMerged"),
        "parallelism": params.get("parallelism"),
        "retries": params.get("retries"),
    }
    return element_of(name, said, name, kind, "" if said["type"] == "memory" else code)
