"""What saving a program needs and takes long, done before it is needed."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wasmsr.interp.modules.module import Module


def preload(module: Module | None = None) -> None:
    """Import all modules that saving a program needs, and digest the program's module.

    The imports take 50 ms, and the digest 1 ms for each MiB of the module. A program that is saved
    would wait for both.

    Args:
        module: The module of the program, if it is known.
    """
    import tempfile

    import zstandard

    from wasmsr.interp.store import state
    from wasmsr.snapshot import capture, format
    from wasmsr.wasi.state import capture as captured
    from wasmsr.wasi.state import contents
    from wasmsr.wasi.streams import listen_address

    assert tempfile and zstandard and capture and format and captured and contents
    assert listen_address and state
    if module is not None:
        assert module.digest
