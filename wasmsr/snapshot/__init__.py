"""Snapshots: a paused machine as a value, and that value as bytes.

In the order in which data flows: `state` (the value), `capture` (from and to a machine), `check`
(what holds of every value), `pages` (which pages of memory are stored), `sections` (parts of the
value as payloads), `container` (payloads as protected bytes), `writer` and `reader` (the whole),
`format` (the front door: `encode`, `decode`, `save`, `load`), `inspect` (a snapshot for people).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wasmsr.interp.machine import Store
    from wasmsr.snapshot.state import Snapshot
    from wasmsr.wasi.facade import Wasi

_WASI = ("wasi_snapshot_preview1", "wasi_unstable")


def snapshot(
    store: Store,
    *,
    wasi: Wasi | None = None,
    fuel: int | None = None,
    embed: bool = False,
    parent: Snapshot | None = None,
) -> Snapshot:
    """The state of a store that stands, as a value of its own: the program may run on, be changed
    or closed, and the snapshot stays what it is. Call it as `wasmsr.snapshot(store)`.

    Args:
        store: idle, or paused in the middle of a call.
        wasi: what serves its WASI; default is `store.wasi`.
        fuel: instructions that remain to a program that runs on a budget, noted in the snapshot.
        embed: put the modules' binaries into the snapshot.
        parent: the snapshot that this program was restored from, for the record.

    Raises:
        UnportableState: the store is running, holds something that no snapshot can carry, or uses
            a WASI that is not given.
    """
    from wasmsr.errors import UnportableState
    from wasmsr.snapshot.capture import capture
    from wasmsr.wasi.state.contents import Contents

    wasi = wasi or store.wasi
    if wasi is None and any(module in _WASI for _, module, _ in store.hosts.values()):
        raise UnportableState(
            "the program uses WASI, and its Wasi is not given",
            hint="say `store.wasi = wasi` when it is made, or snapshot(store, wasi=wasi)",
        )
    files = Contents()
    found = capture(
        store,
        wasi=None if wasi is None else wasi.capture(files),
        files=files,
        fuel=fuel,
        embed=embed,
        parent=None if parent is None else parent.lineage.id,
    )
    return replace(found, memories=[replace(m, data=bytes(m.data)) for m in found.memories])


def prepare() -> None:
    """Import all that saving needs. It takes longer than to save a small program, which would stand
    meanwhile: so it is done before a program starts that is to be saved."""
    import tempfile

    import zstandard

    from wasmsr.snapshot import capture, format
    from wasmsr.wasi.state import capture as captured
    from wasmsr.wasi.state import contents
    from wasmsr.wasi.streams import listen_address

    assert (
        tempfile and zstandard and capture and format and captured and contents and listen_address
    )


class _CallableRoom(ModuleType):
    """`wasmsr.snapshot` is this package, and by the library's wish also the function above."""

    def __call__(self, *arguments: Any, **options: Any) -> Snapshot:
        return snapshot(*arguments, **options)


sys.modules[__name__].__class__ = _CallableRoom
