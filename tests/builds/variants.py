"""Builds wasmsr again in other ways, into build/NAME, and runs Python with one of these builds.

`setup.py build` does it, as for `make asan`; what is current is kept. Used by test_builds. Tests
that compile C themselves ask here for the flags that it would have.
"""

from __future__ import annotations

import fcntl
import os
import runpy
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def core_flags() -> list[str]:
    """What setup.py compiles our C with, but for warnings and experiments: what becomes of floats
    depends on it."""
    return [*runpy.run_path(str(ROOT / "setup.py"), run_name="flags")["FLAGS"]]


class Unbuilt(Exception):
    """The compiler is not there; the text names it."""


@dataclass(frozen=True)
class Variant:
    """A way to build: the compiler (None for Python's own), and flags behind all others."""

    name: str
    compiler: str | None = None
    flags: str = ""

    @property
    def library(self) -> Path:
        """The folder with this build's package."""
        return ROOT / "build" / self.name / "lib"

    def build(self) -> None:
        """Make it, or make it anew where a source has changed.

        Raises:
            Unbuilt: there is no such compiler here.
            CalledProcessError: it does not compile; its words are in `stderr`.
        """
        environment = dict(os.environ, WASMSR_CFLAGS=self.flags, WASMSR_WERROR="1")
        if self.compiler is not None:
            if shutil.which(self.compiler) is None:
                raise Unbuilt(f"needs {self.compiler}")
            environment |= {"CC": self.compiler, "LDSHARED": f"{self.compiler} -shared"}
        base = ROOT / "build" / self.name
        base.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "setup.py", "-q", "build"]
        command += [f"--build-base={base}", f"--build-lib={self.library}"]
        with (base / "lock").open("w") as lock:  # tests run in several processes
            fcntl.flock(lock, fcntl.LOCK_EX)
            subprocess.run(
                command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
            )

    def python(self, *words: str) -> str:
        """Run Python with this build; its standard output.

        Raises:
            CalledProcessError: it ended with another exit code than 0.
        """
        path = f"{self.library}{os.pathsep}{ROOT}"
        environment = dict(os.environ, PYTHONPATH=path, PYTHONSAFEPATH="1")
        done = subprocess.run(
            [sys.executable, *words],
            cwd=ROOT,
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return done.stdout


PORTABLE = Variant("portable", flags="-DWSR_NO_FAST")
CLANG = Variant("clang", compiler="clang-19")
SWITCH = Variant("switch", flags="-DWSR_NO_FAST -DWSR_NO_GOTO")
