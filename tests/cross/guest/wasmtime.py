"""What the tests use of the package wasmtime, for a guest whose CPU that package is not made for.

A process of the host answers (tests/cross/assembler.py, which calls the package itself): qemu-user
hands `exec` to the host's kernel, so the guest starts it like any other program. Only text to
binary and questions about modules; no program runs in Wasmtime here.
"""

from __future__ import annotations

import os
import pickle
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any


class WasmtimeError(Exception):
    """What Wasmtime had against it, in its words."""


@cache
def _host() -> tuple[IO[bytes], IO[bytes]]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    server = Path(__file__).resolve().parents[1] / "assembler.py"
    process = subprocess.Popen(
        [os.environ["WASMSR_HOST"], str(server)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert process.stdin is not None and process.stdout is not None
    return process.stdin, process.stdout


def _ask(*request: Any) -> Any:
    """What the host answers.

    Raises:
        WasmtimeError: Wasmtime raised it there.
    """
    to, back = _host()
    pickle.dump(request, to)
    to.flush()
    fine, answer = pickle.load(back)
    if not fine:
        raise WasmtimeError(answer)
    return answer


def wat2wasm(text: str | bytes) -> bytes:
    """The binary of a module in the text format."""
    binary: bytes = _ask("wat2wasm", text)
    return binary


class Config:
    """Attributes are set here and applied to a configuration of Wasmtime's there."""


class Engine:
    """A configuration; the host keeps an engine for each that differs."""

    def __init__(self, config: Config | None = None) -> None:
        self.settings = vars(config) if config is not None else {}


@dataclass
class MemoryType:
    """The type of an imported memory; what kind of thing it is suffices."""


@dataclass
class TableType:
    """The type of an imported table."""


@dataclass
class GlobalType:
    """The type of an imported global."""

    mutable: bool


@dataclass
class ImportType:
    """An import; `type` is None for functions and tags."""

    module: str
    type: MemoryType | TableType | GlobalType | None


class Module:
    """A valid module."""

    def __init__(self, engine: Engine, binary: bytes) -> None:
        types: dict[str, Any] = {"MemoryType": MemoryType, "TableType": TableType}
        self.imports = [
            ImportType(
                module,
                GlobalType(mutable) if kind == "GlobalType" else types.get(kind, type(None))(),
            )
            for module, kind, mutable in _ask("imports", engine.settings, binary)
        ]

    @staticmethod
    def validate(engine: Engine, binary: bytes) -> None:
        """Raises WasmtimeError where the module is not valid."""
        _ask("validate", engine.settings, binary)
