"""A snapshot as JSON, complete and in one way, to compare a frozen sample with its description.

Written for these samples alone: it must not change when `wasmsr.snapshot.inspect` does.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from wasmsr.snapshot.state import SnapshotState

PAGE = 4096


def plain(snapshot: SnapshotState) -> dict[str, Any]:
    """All of a snapshot as JSON data; bytes in hexadecimal, memories by their pages."""
    lineage, limits = snapshot.lineage, snapshot.limits
    return {
        "modules": [
            [m.digest.hex(), m.size, m.name, m.binary and sha256(m.binary).hexdigest()]
            for m in snapshot.modules
        ],
        "host_functions": [
            [h.address, h.module, h.name, h.params.hex(), h.results.hex()]
            for h in snapshot.host_functions
        ],
        "instances": [
            {
                "module": i.module,
                "function_base": i.function_base,
                "defined": i.defined,
                "functions": i.functions,
                "tables": i.tables,
                "memories": i.memories,
                "globals": i.globals,
                "dropped_elements": i.dropped_elements,
                "dropped_data": i.dropped_data,
                "name": i.name,
            }
            for i in snapshot.instances
        ],
        "tables": [
            [t.type, t.minimum, t.maximum, bytes(t.elements).hex(), *["i64"] * t.address64]
            for t in snapshot.tables
        ],
        "memories": [
            [m.minimum, m.maximum, len(m.data), _pages(bytes(m.data)), *["i64"] * m.address64]
            for m in snapshot.memories
        ],
        "globals": [[g.type, g.mutable, f"{g.value:#x}"] for g in snapshot.globals],
        "frames": [
            {
                "instance": f.instance,
                "function": f.function,
                "offset": f.offset,
                "locals": f.locals,
                "types": f.types.hex(),
                "values": [f"{value:#x}" for value in f.values],
            }
            for f in snapshot.thread.frames
        ],
        "queue": [
            [address, [f"{slot:#x}" for slot in slots]] for address, slots in snapshot.thread.queue
        ],
        "limits": [
            limits.memory_pages,
            limits.table_elements,
            limits.stack_slots,
            limits.stack_frames,
            limits.fuel,
            limits.deterministic,
            limits.features,
        ],
        "lineage": [
            lineage.id.hex(),
            None if lineage.parent is None else lineage.parent.hex(),
            lineage.created,
            lineage.host,
            lineage.engine,
        ],
        "externs": _tagged(snapshot.externs),
        "wasi": _tagged(snapshot.wasi),
        "executed": snapshot.executed,
        **_files(snapshot),
        **_thrown(snapshot),
    }


def _thrown(snapshot: SnapshotState) -> dict[str, Any]:
    """Tags and exceptions, where there are any."""
    if not snapshot.tags:
        return {}
    return {
        "tags": [codes.hex() for codes in snapshot.tags],
        "instance_tags": [i.tags for i in snapshot.instances],
        "exceptions": [[e.tag, [f"{v:#x}" for v in e.fields]] for e in snapshot.exceptions],
    }


def _files(snapshot: SnapshotState) -> dict[str, Any]:
    """What carried files consist of, where there are any."""
    files = snapshot.files
    if not files:
        return {}
    digests = [[digest.hex(), n, sha256(files.read(digest)).hexdigest()] for digest, n in files]
    return {"files": digests}


def _pages(data: bytes) -> dict[str, str]:
    """The pages that are not zero, without the zeros at their ends."""
    found = {}
    for start in range(0, len(data), PAGE):
        page = data[start : start + PAGE].rstrip(b"\0")
        if page:
            found[str(start // PAGE)] = page.hex()
    return found


def _tagged(value: Any) -> Any:
    """JSON that keeps bytes and text apart, and every float."""
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, list):
        return [_tagged(item) for item in value]
    if isinstance(value, dict):
        return {"map": [[_tagged(key), _tagged(item)] for key, item in value.items()]}
    return value
