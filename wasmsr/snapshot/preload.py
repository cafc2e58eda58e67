"""Imports of what saving needs, before it is needed."""


def preload() -> None:
    """Import all modules that saving a program needs.

    The imports take longer than to save a small program, which would wait for them. So they are
    done before a program starts that is to be saved.
    """
    import tempfile

    import zstandard

    from wasmsr.snapshot import capture, format
    from wasmsr.wasi.state import capture as captured
    from wasmsr.wasi.state import contents
    from wasmsr.wasi.streams import listen_address

    assert tempfile and zstandard and capture and format and captured and contents
    assert listen_address
