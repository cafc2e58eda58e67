"""THE table of WASI preview 1: one row for each of its 46 functions.

From it `imports` builds what a module is linked with, and
`python -m wasmsr.wasi.preview1.functions > docs/wasi.md` writes the document.

Source: WebAssembly/WASI, legacy/preview1/witx/wasi_snapshot_preview1.witx (names, order, types).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

from wasmsr.record import record
from wasmsr.wasi.engine import Caller, FuncType, HostFunction, ValType
from wasmsr.wasi.errors import CallError
from wasmsr.wasi.preview1 import fd_calls, path_calls, poll_calls, process_calls, sock_calls
from wasmsr.wasi.preview1.abi import EVENT, FDSTAT, FILESTAT, PRESTAT, Failure, from_host
from wasmsr.wasi.preview1.writes import Arguments, At, Buffer, Buffers, Strings, spans
from wasmsr.wasi.process import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wasmsr.wasi.preview1.writes import Written

MODULE = "wasi_snapshot_preview1"
_TYPES = {"i": ValType.I32, "I": ValType.I64}


@record(frozen=True)
class CallRow:
    """One row.

    `params`: a letter for each parameter, `i` for i32 and `I` for i64; `behaviour`: what it does;
    `snapshot`: what of it a snapshot holds; `result`: False for the one that does not return;
    `writes`: which memory of the program a call may write.
    """

    call: Callable[..., None]
    params: str
    behaviour: str
    snapshot: str
    result: bool = True
    writes: tuple[Written, ...] = ()

    @property
    def name(self) -> str:
        """The name of the function: that of the call."""
        return self.call.__name__

    @cached_property
    def type(self) -> FuncType:
        """The type of the function."""
        return FuncType(
            tuple(_TYPES[letter] for letter in self.params), (ValType.I32,) if self.result else ()
        )

    def parameters(self) -> tuple[str, ...]:
        """Return the names of the WebAssembly parameters, as the call spells them."""
        return self.call.__code__.co_varnames[2 : 2 + len(self.params)]

    def spans(
        self, process: Process, caller: Caller, arguments: Sequence[int]
    ) -> Callable[[bool], list[tuple[int, int]]]:
        """Return what tells after a call which memory it may have written; see `writes.spans`."""
        if not self.writes:
            return lambda succeeded: []
        values = dict(zip(self.parameters(), arguments, strict=True))
        return spans(self.writes, Arguments(process, caller.memory, values))


NOTHING = "nothing"
HOST_FILE = "nothing: the file is the host's"
OFFSET = "the offset"
CONNECTION = "refused, naming the descriptor, while a connection is open"

FUNCTIONS: tuple[CallRow, ...] = (
    CallRow(
        process_calls.args_get,
        "ii",
        "Copies the arguments.",
        "the arguments",
        writes=(Strings("argv", "argv_buf", "args"),),
    ),
    CallRow(
        process_calls.args_sizes_get,
        "ii",
        "Sizes for `args_get`.",
        "the arguments",
        writes=(At("argc", 4), At("argv_buf_size", 4)),
    ),
    CallRow(
        process_calls.environ_get,
        "ii",
        "Copies the environment.",
        "the environment",
        writes=(Strings("environ", "environ_buf", "environ"),),
    ),
    CallRow(
        process_calls.environ_sizes_get,
        "ii",
        "Sizes for `environ_get`.",
        "the environment",
        writes=(At("count", 4), At("environ_buf_size", 4)),
    ),
    CallRow(
        process_calls.clock_res_get,
        "ii",
        "1 ns for each of the four clocks; EINVAL for others.",
        NOTHING,
        writes=(At("resolution", 8),),
    ),
    CallRow(
        process_calls.clock_time_get,
        "iIi",
        "Realtime is the host's. The monotonic clock starts at 1 s and is stopped while the "
        "program is saved; both CPU clocks are the process's. Deterministic: one virtual clock "
        "that a reading moves by 1 µs and a sleep by its length.",
        "the monotonic and the CPU-time clock; when they were stopped",
        writes=(At("time", 8),),
    ),
    CallRow(
        fd_calls.fd_advise,
        "iIIi",
        "posix_fadvise. ESPIPE for a stream, EBADF for a directory.",
        NOTHING,
    ),
    CallRow(
        fd_calls.fd_allocate,
        "iII",
        "posix_fallocate: makes the file at least that long.",
        HOST_FILE,
    ),
    CallRow(
        fd_calls.fd_close,
        "i",
        "Frees the number; the lowest free number is given out next. Preopens can be closed.",
        "which numbers are open",
    ),
    CallRow(fd_calls.fd_datasync, "i", "fdatasync. EINVAL for a stream.", NOTHING),
    CallRow(
        fd_calls.fd_fdstat_get,
        "ii",
        "Type, flags and rights. A standard stream is a character device when it is a terminal, "
        "else of unknown type, and never seekable.",
        "flags and rights",
        writes=(At("stat", FDSTAT.size),),
    ),
    CallRow(
        fd_calls.fd_fdstat_set_flags,
        "ii",
        "APPEND and NONBLOCK can change; changing DSYNC, RSYNC or SYNC of a file is EINVAL.",
        "the flags",
    ),
    CallRow(
        fd_calls.fd_fdstat_set_rights,
        "iII",
        "Rights can only be dropped; ENOTCAPABLE otherwise.",
        "the rights",
    ),
    CallRow(
        fd_calls.fd_filestat_get,
        "ii",
        "fstat. For a standard stream all is 0 but the type.",
        HOST_FILE,
        writes=(At("stat", FILESTAT.size),),
    ),
    CallRow(fd_calls.fd_filestat_set_size, "iI", "ftruncate.", HOST_FILE),
    CallRow(
        fd_calls.fd_filestat_set_times,
        "iIIi",
        "futimens; EINVAL where a time is to be both given and now.",
        HOST_FILE,
    ),
    CallRow(
        fd_calls.fd_pread,
        "iiiIi",
        "preadv straight into memory, much of it in pieces: a pause in between ends the call with "
        "nothing read. ESPIPE for what has no offset.",
        NOTHING,
        writes=(Buffers("iovs", "iovs_len", "nread"), At("nread", 4)),
    ),
    CallRow(
        fd_calls.fd_prestat_get,
        "ii",
        "Preopened directories; EBADF ends the search.",
        "their names",
        writes=(At("prestat", PRESTAT.size),),
    ),
    CallRow(
        fd_calls.fd_prestat_dir_name,
        "iii",
        "Their names; ENAMETOOLONG for too small a buffer.",
        "their names",
        writes=(Buffer("path", "path_len"),),
    ),
    CallRow(
        fd_calls.fd_pwrite,
        "iiiIi",
        "pwritev straight from memory.",
        HOST_FILE,
        writes=(At("nwritten", 4),),
    ),
    CallRow(
        fd_calls.fd_read,
        "iiii",
        "readv straight into memory, at most 1,024 buffers. Waits for a terminal, pipe or socket, "
        "reads much of a file in pieces, and a pause ends either with nothing read. EBADF without "
        "the right to read.",
        "the offset; bytes of standard input that were read but not consumed; the call itself "
        "while it waits",
        writes=(Buffers("iovs", "iovs_len", "nread"), At("nread", 4)),
    ),
    CallRow(
        fd_calls.fd_readdir,
        "iiiIi",
        "`.`, `..` and the names in the order of their bytes, as they were when cookie 0 was last "
        "read; a cookie is a position in that list.",
        "the list",
        writes=(Buffer("buf", "buf_len", "bufused"), At("bufused", 4)),
    ),
    CallRow(
        fd_calls.fd_renumber,
        "ii",
        "Moves a descriptor over another open one, which is closed; EBADF where either is not "
        "open.",
        "which numbers are open",
    ),
    CallRow(
        fd_calls.fd_seek,
        "iIii",
        "lseek. ESPIPE for a stream, EBADF for a directory; FD_TELL is enough to ask.",
        OFFSET,
        writes=(At("newoffset", 8),),
    ),
    CallRow(fd_calls.fd_sync, "i", "fsync, of directories too. EINVAL for a stream.", NOTHING),
    CallRow(fd_calls.fd_tell, "ii", "The offset.", OFFSET, writes=(At("offset", 8),)),
    CallRow(
        fd_calls.fd_write,
        "iiii",
        "writev straight from memory, not buffered. To a pipe or terminal in pieces that do not "
        "block; a pause ends the waiting, with a short write when something is written already. "
        "EPIPE when nobody reads.",
        "the offset; the call itself while it waits",
        writes=(At("nwritten", 4),),
    ),
    CallRow(path_calls.path_create_directory, "iii", "mkdirat.", HOST_FILE),
    CallRow(
        path_calls.path_filestat_get,
        "iiiii",
        "fstatat. A final link is followed if asked, or after a trailing slash.",
        HOST_FILE,
        writes=(At("filestat", FILESTAT.size),),
    ),
    CallRow(path_calls.path_filestat_set_times, "iiiiIIi", "utimensat.", HOST_FILE),
    CallRow(
        path_calls.path_link,
        "iiiiiii",
        "linkat; a final link of the old path is followed if asked.",
        HOST_FILE,
    ),
    CallRow(
        path_calls.path_open,
        "iiiiiIIii",
        "openat below the directory. Reading and writing need FD_READ and FD_WRITE; other rights "
        "are what is asked, can be inherited and means something for the kind of file.",
        "mount, path below it free of links, flags, rights, access mode, offset and size; the "
        "content of a file that has no name any more",
        writes=(At("opened", 4),),
    ),
    CallRow(
        path_calls.path_readlink,
        "iiiiii",
        "readlinkat, cut to the buffer.",
        HOST_FILE,
        writes=(Buffer("buf", "buf_len", "bufused"), At("bufused", 4)),
    ),
    CallRow(path_calls.path_remove_directory, "iii", "unlinkat with AT_REMOVEDIR.", HOST_FILE),
    CallRow(path_calls.path_rename, "iiiiii", "renameat.", HOST_FILE),
    CallRow(
        path_calls.path_symlink,
        "iiiii",
        "symlinkat; EPERM for an absolute target.",
        HOST_FILE,
    ),
    CallRow(path_calls.path_unlink_file, "iii", "unlinkat; EISDIR for a directory.", HOST_FILE),
    CallRow(
        poll_calls.poll_oneoff,
        "iiii",
        "Waits for descriptors and the realtime and monotonic clocks; files are always ready. "
        "EINVAL for no subscription; what is wrong with one is its event's error.",
        "when the call began, on the monotonic clock, so that made again it waits for the rest",
        writes=(Buffer("events", "nsubscriptions", "nevents", EVENT.size), At("nevents", 4)),
    ),
    CallRow(
        process_calls.proc_exit,
        "i",
        "Ends the program with that code.",
        NOTHING,
        result=False,
    ),
    CallRow(
        process_calls.proc_raise,
        "i",
        "Ends the program with 128 + signal, or does nothing for a signal that is ignored; "
        "ENOTSUP for one that would stop it, EINVAL for none that exists.",
        NOTHING,
    ),
    CallRow(process_calls.sched_yield, "", "sched_yield.", NOTHING),
    CallRow(
        process_calls.random_get,
        "ii",
        "The host's random bytes. Deterministic: the BLAKE2b stream of the seed.",
        "deterministic: the seed and how much was taken",
        writes=(Buffer("buf", "buf_len"),),
    ),
    CallRow(
        sock_calls.sock_accept,
        "iii",
        "Accepts from a listening socket that the program was started with; ENOTSOCK for others. "
        "Waits, and a pause ends the waiting.",
        "which of the sockets given at the start it is: another must be given on resume; the call "
        "itself while it waits",
        writes=(At("opened", 4),),
    ),
    CallRow(
        sock_calls.sock_recv,
        "iiiiii",
        "recvmsg; PEEK works, WAITALL is ENOTSUP.",
        CONNECTION,
        writes=(Buffers("ri_data", "ri_data_len", None), At("ro_datalen", 4), At("ro_flags", 2)),
    ),
    CallRow(sock_calls.sock_send, "iiiii", "sendmsg.", CONNECTION, writes=(At("so_datalen", 4),)),
    CallRow(sock_calls.sock_shutdown, "ii", "shutdown.", CONNECTION),
)

UNSUPPORTED = (
    (
        "`path_open` of a FIFO or device",
        "works; saving is refused with an error that names it, but for `/dev/null` and its like",
        "it is this host's",
    ),
    (
        "changing DSYNC, RSYNC or SYNC of an open file (`fd_fdstat_set_flags`)",
        "EINVAL",
        "no host can",
    ),
    ("`fd_allocate` where the host has no such call (macOS)", "ENOTSUP", ""),
    (
        "waiting for the CPU-time clocks (`poll_oneoff`)",
        "the event's error is ENOTSUP",
        "they are stopped while the program waits",
    ),
    ("`proc_raise` of a signal that stops", "ENOTSUP", "nobody could continue the program"),
    (
        "`sock_recv` with WAITALL",
        "ENOTSUP",
        "it could not be given up for a pause without losing what came already",
    ),
    (
        "saving while a connection is open",
        "an error that names the descriptor",
        "the other side has no part in it; close it first",
    ),
    ("making sockets, connecting", "no such call", "preview 1 has none"),
    (
        "absolute symbolic links (`path_symlink`)",
        "EPERM",
        "the program cannot follow them, and on the host they lead out of the folder",
    ),
)
"""What does not work, or only in part: what, what the answer is, and why."""


SIZES = {"args_sizes_get": "args", "environ_sizes_get": "environ"}
"""Calls that only read constants, and the strings of the process that they are about."""


def bind(function: CallRow, process: Process) -> HostFunction:
    """Return the row as an import of a process.

    What the call raises becomes the errno that the import returns. Arguments come as the bits of
    their slots, unsigned: the calls make signed what is signed.
    """
    body = function.call

    def writes(caller: Caller, arguments: Sequence[int]) -> Any:
        return function.spans(process, caller, arguments)

    if not function.result:

        def leave(caller: Caller, *arguments: Any) -> None:
            body(process, caller, *arguments)

        return HostFunction(function.type, leave, raw=True, writes=writes)

    def call(caller: Caller, *arguments: Any) -> int:
        try:
            body(process, caller, *arguments)
        except Failure as failure:
            return failure.errno
        except (CallError, OSError) as error:
            return from_host(error)
        return 0

    if function.name in SIZES:
        short = process_calls.sizes_call(getattr(process, SIZES[function.name]), call)
        return HostFunction(function.type, short, raw=True, writes=writes)

    return HostFunction(function.type, call, raw=True, writes=writes)


class ProcessImports(Mapping[str, HostFunction]):
    """The functions of a table as imports of a process. Each is bound when it is first asked for.

    A program imports a part of them, and a process with a thousand forks would bind all a thousand
    times.

    Args:
        process: The process.
        rows: The rows by name.
    """

    def __init__(self, process: Process, rows: Mapping[str, CallRow]) -> None:
        self._process = process
        self._rows = rows
        self._bound: dict[str, HostFunction] = {}

    def __getitem__(self, name: str) -> HostFunction:
        bound = self._bound.get(name)
        if bound is None:
            bound = self._bound[name] = bind(self._rows[name], self._process)
        return bound

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


BY_NAME = {row.name: row for row in FUNCTIONS}
"""The rows by name."""


def imports(
    process: Process, functions: Mapping[str, CallRow] = BY_NAME
) -> Mapping[str, HostFunction]:
    """Return every function of the table as an import of a process."""
    return ProcessImports(process, functions)


def document() -> str:
    """Return the table as Markdown: `docs/wasi.md`."""
    lines = [
        "# WASI preview 1",
        "",
        "<!-- Generated by `python -m wasmsr.wasi.preview1.functions`; do not edit. -->",
        "",
        f"All {len(FUNCTIONS)} functions of `{MODULE}`: what each does, which memory it may "
        "write, and what of it is in a snapshot. A pointer outside of memory is EFAULT before "
        "anything has happened. Paths never leave the directory they start from: absolute paths, "
        "absolute links and a `..` too many are EPERM, more than 40 links ELOOP. "
        "`wasi_unstable`, the older ABI, is the same with its own layouts and without "
        "`sock_accept`.",
        "",
        "| function | parameters | memory written | behaviour | in the snapshot |",
        "|---|---|---|---|---|",
    ]
    for row in FUNCTIONS:
        parameters = ", ".join(f"`{name}`" for name in row.parameters())
        written = ", ".join(part.described for part in row.writes)
        lines.append(
            f"| `{row.name}` | {parameters} | {written} | {row.behaviour} | {row.snapshot} |"
        )
    lines += ["", "## What is not supported", "", "| what | answer | why |", "|---|---|---|"]
    lines += [f"| {what} | {answer} | {why} |" for what, answer, why in UNSUPPORTED]
    return "\n".join(lines) + "\n"


def main(words: list[str]) -> int:
    """Print the document, or compare it with a file (`--check FILE`); return the exit code."""
    if words[:1] != ["--check"]:
        print(document(), end="")
        return 0
    with open(words[1], encoding="utf-8") as file:
        if file.read() == document():
            return 0
    print(f"{words[1]} is not what `python -m wasmsr.wasi.preview1.functions` prints")
    return 1


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
