"""Kernel specs: how Jupyter finds the kernel, and starts it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from wasmsr import small_files
from wasmsr.kernel.wire import KernelError

PROVISIONER = "wasmsr-relay"
"""The name of `RelayProvisioner` in this package's entry points."""
_NAME = re.compile(r"[a-zA-Z0-9._-]+")


def spec_of(
    options: list[str], display_name: str, env: dict[str, str], *, keep_alive: bool = False
) -> dict[str, Any]:
    """Return a kernel spec.

    Args:
        options: Options of `wasmsr kernel run`.
        display_name: The kernel's name for people.
        env: Environment variables of the kernel's processes.
        keep_alive: Whether Jupyter is to start the relay again if it is killed.
    """
    words = [sys.executable, "-m", "wasmsr", "kernel", "run"]
    return {
        "argv": [*words, "--connection-file", "{connection_file}", *options],
        "display_name": display_name,
        "language": "python",
        "interrupt_mode": "message",
        "env": env,
        "metadata": {
            "debugger": False,
            **({"kernel_provisioner": {"provisioner_name": PROVISIONER}} if keep_alive else {}),
        },
    }


def spec_folder(name: str, prefix: str | None, user: bool) -> Path:
    """Return the folder of a kernel spec.

    Args:
        name: The name by which clients start the kernel.
        prefix: Where Jupyter is installed; None is the system's, or the user's with `user`.
        user: Whether only the user's own clients find it.

    Raises:
        KernelError: The name cannot be one.
    """
    if not _NAME.fullmatch(name):
        raise KernelError(
            f"a kernel cannot have the name {name!r}", hint="use letters, digits and . _ -"
        )
    if prefix is not None:
        base = Path(prefix) / "share" / "jupyter"
    else:
        from jupyter_core.paths import SYSTEM_JUPYTER_PATH, jupyter_data_dir

        base = Path(jupyter_data_dir() if user else SYSTEM_JUPYTER_PATH[0])
    return base / "kernels" / name.lower()


def write_spec(folder: Path, spec: dict[str, Any]) -> None:
    """Write a kernel spec. Raises KernelError: The folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        small_files.replace(
            folder / "kernel.json", json.dumps(spec, indent=1).encode() + b"\n", mode=0o644
        )
    except OSError as error:
        raise KernelError(
            f"the kernel spec cannot be written to {folder}: {error.strerror}",
            hint="--user writes into your own folder, --prefix into another one",
        ) from error
