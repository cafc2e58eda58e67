"""Builds the one extension, `wasmsr._ffi`: the C core (wasmsr/_core.c, wasmsr/core/), the system
calls that Python lacks (wasmsr/_sys.c), and the glue.

All metadata is in pyproject.toml; the C declarations come from wasmsr/_ffi_build.py. This file
holds the compiler flags and why they are these. Three environment variables change them:

    WASMSR_WERROR=1        warnings of our own C are errors (CI)
    WASMSR_SANITIZE=LIST   builds with -fsanitize=LIST and assertions (`make asan`)
    WASMSR_CFLAGS=FLAGS    appended last, for experiments
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Floating point must be exact: no contraction (compilers fuse a*b+c on aarch64 and s390x even in
# -std=c11 mode), never -ffast-math, and no excess precision (in that mode gcc computes floats as
# doubles on s390x; "fast" means the type that stands there, and numeric.h checks it). What we ship
# must run on every CPU of its kind: never -march=native. -O2 comes after Python's own flags,
# whatever they are.
FLAGS = ["-std=c11", "-O2", "-ffp-contract=off", "-fexcess-precision=fast"]
FLAGS += ["-fno-math-errno", "-fvisibility=hidden"]
FLAGS += ["-g0"]  # debug data is ten times the size, and half the time to build
TAIL_CALLS = ["-foptimize-sibling-calls"]  # the fast loop is made of them: after all other flags
# Debian's Python asks for stack protectors. A handler of the fast loop with an array of lanes would
# then call a function and spill every register. Such arrays are indexed by constants only.
NO_PROTECTOR = ["-fno-stack-protector"]
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wno-sign-conversion"]
SANITIZED = ["-O1", "-g", "-UNDEBUG", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all"]


def flags_for(source: str) -> list[str]:
    """Return the flags of one C file, to follow those of the compiler or of Python.

    Also for builds without setuptools (scripts/cross.py). The glue that cffi writes is spared our
    warnings.
    """
    flags = [*FLAGS]
    if sanitizers := os.environ.get("WASMSR_SANITIZE"):
        flags += [*SANITIZED, f"-fsanitize={sanitizers}"]
    if Path(source).match("core/fast/*"):
        flags += NO_PROTECTOR
    if Path(source).parts[0] == "wasmsr":
        flags += [*WARNINGS, *(["-Werror"] if os.environ.get("WASMSR_WERROR") == "1" else [])]
    return [*flags, *shlex.split(os.environ.get("WASMSR_CFLAGS", "")), *TAIL_CALLS]


class BuildExt(build_ext):
    """`build_ext` with our flags."""

    def build_extension(self, ext: Extension) -> None:
        """Build the extension with our flags."""
        core = Path("wasmsr")
        ext.depends += [str(p) for p in [*sorted(core.glob("core/**/*.[chi]*")), core / "_sys.h"]]
        compile_one = self.compiler._compile

        def compile_ours(
            obj: str, src: str, ext: str, cc_args: Any, extra: Any, pp_opts: Any
        ) -> None:
            compile_one(obj, src, ext, cc_args, [*extra, *flags_for(src)], pp_opts)

        self.compiler._compile = compile_ours
        if sanitizers := os.environ.get("WASMSR_SANITIZE"):
            ext.extra_link_args = [*ext.extra_link_args, f"-fsanitize={sanitizers}"]
        try:
            super().build_extension(ext)
        finally:
            self.compiler._compile = compile_one


if __name__ == "__main__":
    setup(
        license="Apache-2.0",
        cffi_modules=["wasmsr/_ffi_build.py:builder"],
        cmdclass={"build_ext": BuildExt},
        options={"bdist_wheel": {"py_limited_api": "cp310"}},
    )
