"""Text modules to binaries, by other people's assemblers: `Source` in, bytes out.

The PyPI package wasmtime takes nearly every text module of the official scripts in tens of
microseconds, so nothing is cached. It knows no legacy exception instructions; wabt's `wat2wasm`
does, where it is on the PATH. Neither validates here: what is invalid must reach our validator.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import wasmtime

from .script import Source


class Refused(Exception):
    """No assembler makes a binary of the text; says what the first one said."""


def _escape(text: bytes) -> bytes:
    """The same text with every byte beyond ASCII as an escape: such bytes stand in strings and
    comments only, and wasmtime refuses the confusing ones among them unless they are escaped."""
    return b"".join(bytes([byte]) if byte < 0x80 else b"\\%02x" % byte for byte in text)


def _wasmtime(text: bytes) -> bytes:
    try:
        return bytes(wasmtime.wat2wasm(text))
    except wasmtime.WasmtimeError as error:
        raise Refused(str(error)) from error


def _wabt(program: str, text: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "module.wat"), Path(folder, "module.wasm")
        source.write_bytes(text)
        options = ["--enable-exceptions", "--enable-tail-call", "--no-check"]
        command = [program, *options, str(source), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Refused(done.stderr.strip())
        return target.read_bytes()


def has_wabt() -> bool:
    """Whether wabt's assembler, which the `legacy/` scripts need, is installed."""
    return shutil.which("wat2wasm") is not None


def to_binary(source: Source) -> bytes:
    """The binary of a module as a script holds it.

    Raises:
        Refused: the source is text, and no assembler at hand takes it.
    """
    if source.kind == "binary":
        return source.data
    try:
        return _wasmtime(source.data)
    except Refused as refusal:
        # The very text is what a quoted module is about, so that is never tried in other words.
        if source.kind == "quote":
            raise
        return _otherwise(source.data, refusal)


def _otherwise(text: bytes, refusal: Refused) -> bytes:
    try:
        return _wasmtime(_escape(text))
    except Refused:
        program = shutil.which("wat2wasm")
        if program is None:
            raise refusal from None
        return _wabt(program, text)
