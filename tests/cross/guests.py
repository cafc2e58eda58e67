"""A guest: Python of another CPU with wasmsr in it, made by scripts/cross.py, under qemu-user."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "cross"
PACKAGE = ROOT / "wasmsr"


@dataclass(frozen=True)
class Guest:
    """One architecture, by Debian's name."""

    name: str

    @property
    def command(self) -> Path:
        """What stands for the guest's Python."""
        return BUILD / self.name / "python"

    @property
    def library(self) -> Path:
        """The folder with the guest's wasmsr."""
        return BUILD / self.name / "lib"

    def absence(self) -> str | None:
        """Why it cannot be run, or None."""
        if not self.command.exists():
            return f"{self.name} is not built: make cross"
        built = self.command.stat().st_mtime
        sources = (path for kind in ("py", "c", "h") for path in PACKAGE.rglob(f"*.{kind}"))
        if any(path.stat().st_mtime > built for path in sources):
            return f"{self.name} is of older sources: make cross"
        return None

    def run(
        self, *words: str, cwd: Path = ROOT, env: dict[str, str] | None = None, code: int = 0
    ) -> str:
        """Run the guest's Python with these arguments; its standard output.

        Raises:
            AssertionError: it did not end with exit code `code`; the text has what it printed.
        """
        done = subprocess.run(
            [str(self.command), *words],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, (
            f"{self.name}: exit code {done.returncode}, not {code}\n"
            f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        )
        return done.stdout


ARM64, S390X = Guest("arm64"), Guest("s390x")
GUESTS = (ARM64, S390X)
