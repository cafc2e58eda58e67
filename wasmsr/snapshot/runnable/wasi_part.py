"""The state of WASI in a plain state, and back.

The part has, in this order:

- `u32` deterministic, `u32` whether there is a seed; `u64` each: the monotonic clock, CPU time, and
  realtime when they were stopped; 32 bytes of seed, `u64` position in the random stream;
- `u32` whether a poll was interrupted, 16 bytes that identify it, `u64` when it began;
- arguments, environment: `u32` count, then strings;
- mounts: `u32` count, then for each: string name, `u32` what may be done (0 all, 1 only read, 2 as
  in an input of a job);
- `u32` count of descriptors, then for each: `u32` fd, `u32` kind (1 standard input, 2 output, 3
  error, 4 file, 5 directory, 6 device), `u32` flags, `u64` rights, `u64` inheriting rights, `u32`
  mount, string path, `u32` access, `u64` offset, `u64` size, `u32` preopen; of standard input
  string unread, `u32` ended, `u32` whether it is a file; strings before and after the offset; `u32`
  whether a listing is kept, and if so `u32` count and for each entry string name, `u64` inode,
  `u32` type.
"""

from __future__ import annotations

from typing import Any

from wasmsr.errors import FormatError, UnportableState
from wasmsr.snapshot.runnable.plain_state import PartReader, string, u32, u64
from wasmsr.wasi.clocks import FIRST_INSTANT
from wasmsr.wasi.state import checked_state, origin
from wasmsr.wasi.state.checked_state import DescriptorState, WasiState

STDIN, STDOUT, STDERR, FILE, DIRECTORY, DEVICE = range(1, 7)
_KINDS = {"stdin": STDIN, "file": FILE, "directory": DIRECTORY, "device": DEVICE}
_NAMES = {number: name for name, number in _KINDS.items()}
_STREAMS = {"stdout": STDOUT, "stderr": STDERR}
IN_PLACE = ("host", "ro", "input")
"""Modes of mounts that are folders of the host, by their number. An outer engine can be given them;
the guest keeps the program from writing where it may not."""
MOST_FDS = 1 << 16
_DESCRIPTOR_SIZE = 80
"""The least bytes of a descriptor."""
_ELSEWHERE = bytes(32)
"""The identity of a host that is none: marks of files are compared by their content."""


def refuse(state: WasiState) -> None:
    """Refuse a state of WASI that an outer engine cannot have.

    Raises:
        UnportableState: The message names what cannot go along.
    """
    for mount in state.mounts:
        if mount.mode not in (*IN_PLACE, "carry", "mem"):
            raise _cannot(
                f"the mount {mount.guest.decode(errors='replace')} is of the mode {mount.mode}",
                "only folders of the host (host, ro, input) and files in the snapshot (carry, mem) "
                "can go along",
            )
    for one in state.descriptors:
        if one.kind == "listener":
            raise _cannot(f"descriptor {one.fd} is a listening socket ({one.address})")
        if one.unlinked is not None:
            raise _cannot(f"descriptor {one.fd} is a file or directory without a name")
        if one.relayed is not None:
            raise _cannot("its standard input is relayed from another host")
        if one.fd >= MOST_FDS:
            raise _cannot(f"descriptor {one.fd} has too high a number")


def _cannot(what: str, hint: str | None = None) -> UnportableState:
    return UnportableState(f"the snapshot cannot be made runnable: {what}", hint=hint)


def encode_wasi(state: WasiState | None) -> bytes:
    """Return the part, of a state that was not refused; None is a program without WASI."""
    if state is None:
        clocks = u64(FIRST_INSTANT, 0, 0)
        return u32(0, 0) + clocks + bytes(32) + u64(0) + u32(0) + bytes(16) + u64(0) + u32(0) * 4
    pieces = [
        u32(state.deterministic, state.seed is not None),
        u64(state.monotonic, state.cpu, state.stopped_at),
        state.seed or bytes(32),
        u64(state.position),
        u32(state.call is not None),
        state.call or bytes(16),
        u64(state.started),
    ]
    for strings in (state.args, state.environ):
        pieces += [u32(len(strings)), *map(string, strings)]
    pieces.append(u32(len(state.mounts)))
    pieces += [string(mount.guest) + u32(_number(mount.mode)) for mount in state.mounts]
    pieces.append(u32(len(state.descriptors)))
    numbers = {mount.guest: number for number, mount in enumerate(state.mounts)}
    for one in state.descriptors:
        pieces.append(_encode_descriptor(one, numbers, state.origin))
    return b"".join(pieces)


def _number(mode: str) -> int:
    return IN_PLACE.index(mode) if mode in IN_PLACE else 0


def _encode_descriptor(
    one: DescriptorState, mounts: dict[bytes, int], marks: origin.Origin
) -> bytes:
    kind = _STREAMS[one.stream] if one.kind == "stdout" else _KINDS[one.kind]
    offset, size, before, after = one.offset, one.size, b"", b""
    if one.file is not None:
        offset, size = one.file.offset, one.file.size
        before, after = one.file.before, one.file.after
    elif kind == FILE and one.fd in marks.files:
        before, after = marks.files[one.fd].before, marks.files[one.fd].after
    pieces = [
        u32(one.fd, kind, one.flags),
        u64(one.rights, one.inheriting),
        u32(mounts.get(one.mount, 0)),
        string(b"/".join(one.path)),
        u32(one.access),
        u64(offset, size),
        u32(one.preopen),
        string(one.unread),
        u32(one.ended, one.file is not None),
        string(before),
        string(after),
        u32(one.entries is not None),
    ]
    if one.entries is not None:
        pieces.append(u32(len(one.entries)))
        for name, inode, type_ in one.entries:
            pieces.append(string(name) + u64(inode) + u32(type_))
    return b"".join(pieces)


def decode_wasi(data: memoryview, before: dict[str, Any]) -> dict[str, Any]:
    """Return the state of WASI, as `Wasi.capture` returns it.

    Args:
        data: The part, which is not trusted.
        before: The state in the template; it has the modes of the mounts.

    Raises:
        FormatError: The part is damaged, or of another program.
    """
    part = PartReader(data, "WASI")
    deterministic, seeded = part.flag(), part.flag()
    clocks = {"monotonic": part.u64(), "cpu": part.u64(), "stopped_at": part.u64()}
    seed, position = part.take(32), part.u64()
    pending, call, started = part.flag(), part.take(16), part.u64()
    args = [part.string() for _ in part.count(4)]
    environ = [part.string() for _ in part.count(4)]
    mounts = [(part.string(), part.u32()) for _ in part.count(8)]
    if mounts != [(mount["guest"], _number(mount["mode"])) for mount in before["mounts"]]:
        raise FormatError("the state file has other mounts than its program")
    names = [name for name, _ in mounts]
    marks: list[list[Any]] = []
    descriptors = [_decode_descriptor(part, names, marks) for _ in part.count(_DESCRIPTOR_SIZE)]
    part.end()
    used = {one["mount"] for one in descriptors if "mount" in one}
    found: dict[str, Any] = {
        "args": args,
        "environ": environ,
        "deterministic": deterministic,
        "clocks": clocks,
        "random": {"seed": seed, "position": position} if seeded else None,
        "pending": {"call": call, "started": started} if pending else None,
        "mounts": [mount for mount in before["mounts"] if mount["guest"] in used],
        "descriptors": descriptors,
        "unlinked": [],
    }
    if marks:
        found["origin"] = {
            "machine": _ELSEWHERE, "boot": _ELSEWHERE, "files": marks, "roots": [],
        }  # fmt: skip
    checked_state.read(found)
    return found


def _decode_descriptor(
    part: PartReader, mounts: list[bytes], marks: list[list[Any]]
) -> dict[str, Any]:
    fd, kind = part.u32(), part.u32()
    state: dict[str, Any] = {"fd": fd, "kind": "", "flags": part.u32()}
    state["rights"], state["inheriting"] = part.u64(), part.u64()
    mount, path, access = part.u32(), part.string(), part.u32()
    offset, size, preopen = part.u64(), part.u64(), part.flag()
    unread, ended, has_file = part.string(), part.flag(), part.flag()
    before, after = part.string(), part.string()
    entries: list[list[Any]] | None = None
    if part.flag():
        entries = [[part.string(), part.u64(), part.u32()] for _ in part.count(16)]
    if kind in _NAMES:
        state["kind"] = _NAMES[kind]
    elif kind in _STREAMS.values():
        stream = next(name for name, number in _STREAMS.items() if number == kind)
        return {**state, "kind": "stdout", "stream": stream}
    else:
        raise FormatError(f"descriptor {fd} of the state file is of the unknown kind {kind}")
    if kind == STDIN:
        file = {"offset": offset, "size": size, "before": before, "after": after}
        state |= {"unread": unread, "file": file if has_file else None}
        return {**state, "ended": True} if ended else state
    if mount >= len(mounts):
        raise FormatError(f"descriptor {fd} of the state file is in no mount")
    state |= {"mount": mounts[mount], "path": path}
    if kind == DIRECTORY:
        return {**state, "preopen": preopen, "entries": entries, "unlinked": None}
    state["access"] = access
    if kind == FILE:
        state |= {"offset": offset, "size": size, "unlinked": None}
        if before or after:
            marks.append([fd, 0, 0, 0, 0, before, after])
    return state
