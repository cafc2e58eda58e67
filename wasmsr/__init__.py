"""wasmsr: a WebAssembly runtime in which every running program can be paused, saved and resumed.

The library's public names, gathered from the rooms; `docs/library.md` shows them at work. Each is
imported when it is first used, so that `import wasmsr` costs next to nothing.

Threads. A `Module` and a `Snapshot` may be used by any number of threads. A `Store`, with all that
was taken from it (instances, functions, memories, its `Wasi`), is used by one thread at a time,
which may be another one each time. `Store.pause`, `Store.wait`, `Store.running` and `pause` may be
called from any thread, `Store.pause` from signal handlers too. While a program computes, the GIL is
released; Python's own signal handlers wait for the end of the call on the main thread, so that a
program that should be interruptible runs on another one, as `run` arranges it.
"""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = [
    "AsyncSandbox",
    "Bounds",
    "Caller",
    "Completions",
    "DigestError",
    "EncryptionError",
    "Exit",
    "Exited",
    "Export",
    "Extern",
    "Finished",
    "FormatError",
    "Frame",
    "FuncType",
    "Function",
    "Global",
    "GlobalType",
    "HandedOver",
    "History",
    "HostError",
    "HostFunction",
    "Import",
    "Imports",
    "Instance",
    "Interrupted",
    "InvalidError",
    "KeySourceError",
    "Limits",
    "LinkError",
    "MalformedError",
    "Memory",
    "MemoryType",
    "MigrationError",
    "MissingPackageError",
    "Module",
    "ModuleError",
    "ModuleMismatch",
    "Moment",
    "Mount",
    "Node",
    "NodeError",
    "Outcome",
    "Paused",
    "Retry",
    "RunSpec",
    "Sandbox",
    "SandboxError",
    "SandboxFailure",
    "SandboxLimits",
    "SandboxResult",
    "SandboxValue",
    "SignatureError",
    "Snapshot",
    "SnapshotError",
    "Store",
    "Table",
    "TableType",
    "Tag",
    "TagType",
    "ThrownException",
    "ToolCall",
    "Trap",
    "Trapped",
    "TrustError",
    "UncaughtException",
    "UnportableState",
    "UnsupportedError",
    "ValType",
    "VersionError",
    "Wasi",
    "WasiConfigError",
    "WasmsrError",
    "__version__",
    "fork_imports",
    "open_program",
    "pause",
    "run",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wasmsr.errors import (
        DigestError,
        EncryptionError,
        Exit,
        FormatError,
        Frame,
        HandedOver,
        HostError,
        Interrupted,
        InvalidError,
        KeySourceError,
        LinkError,
        MalformedError,
        MigrationError,
        MissingPackageError,
        ModuleError,
        ModuleMismatch,
        SignatureError,
        SnapshotError,
        Trap,
        TrustError,
        UncaughtException,
        UnportableState,
        UnsupportedError,
        VersionError,
        WasiConfigError,
        WasmsrError,
    )
    from wasmsr.interp.modules.module import Export, Import, Module
    from wasmsr.interp.outcomes import Exited, Finished, Limits, Outcome, Paused, Trapped
    from wasmsr.interp.store.exceptions import ThrownException
    from wasmsr.interp.store.externs import (
        Caller,
        Extern,
        Function,
        Global,
        HostFunction,
        Memory,
        Retry,
        Table,
        Tag,
    )
    from wasmsr.interp.store.instance import Imports, Instance
    from wasmsr.interp.store.store import Store
    from wasmsr.interp.types import (
        Bounds,
        FuncType,
        GlobalType,
        MemoryType,
        TableType,
        TagType,
        ValType,
    )
    from wasmsr.library import open_program, pause, run
    from wasmsr.node.failures import NodeError
    from wasmsr.rpc.control.control_client import Node
    from wasmsr.runspec.run_spec import RunSpec
    from wasmsr.sandbox.async_sandbox import AsyncSandbox
    from wasmsr.sandbox.results import (
        Completions,
        SandboxError,
        SandboxFailure,
        SandboxLimits,
        SandboxResult,
        SandboxValue,
        ToolCall,
    )
    from wasmsr.sandbox.sandbox import Sandbox
    from wasmsr.snapshot.moments.forks import fork_imports
    from wasmsr.snapshot.moments.history import History
    from wasmsr.snapshot.moments.moment import Moment
    from wasmsr.snapshot.snapshot import Snapshot
    from wasmsr.wasi.facade import Wasi
    from wasmsr.wasi.filesystem.mounts import Mount

_ROOMS = {
    "interp.store.exceptions": "ThrownException",
    "interp.store.externs": "Caller Extern Function Global HostFunction Memory Retry Table Tag",
    "interp.store.store": "Imports Instance Store",
    "interp.modules.module": "Export Import Module",
    "interp.outcomes": "Exited Finished Limits Outcome Paused Trapped",
    "interp.types": "Bounds FuncType GlobalType MemoryType TableType TagType ValType",
    "library": "open_program pause run",
    "node.failures": "NodeError",
    "rpc.control.control_client": "Node",
    "runspec.run_spec": "RunSpec",
    "sandbox.results": (
        "Completions SandboxError SandboxFailure SandboxLimits SandboxResult SandboxValue ToolCall"
    ),
    "sandbox.async_sandbox": "AsyncSandbox",
    "sandbox.sandbox": "Sandbox",
    "snapshot.moments.forks": "fork_imports",
    "snapshot.moments.history": "History",
    "snapshot.moments.moment": "Moment",
    "snapshot.snapshot": "Snapshot",
    "wasi.facade": "Wasi",
    "wasi.filesystem.mounts": "Mount",
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names.split()}


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(f"wasmsr.{_HOME.get(name, 'errors')}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
