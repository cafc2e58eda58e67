"""The module cache: notes on modules from earlier starts.

The cache has no code and no bytes of modules, only small notes:

- `ID.file`: the SHA-256 of the file with this device, inode, size and times of last change, so that
  the next start need not hash the file again;
- `DIGEST.about`: how large the module is and under which path it was last seen, for people;
- `DIGEST-ENGINE.valid`: this build of the engine has validated the whole module with this digest,
so
  that the next start need not validate it.

A wrong note (damaged, forged, or of a file that was changed without a trace in its times) can only
delay an error. Every body is validated when it is compiled, and a snapshot has or is compared with
a digest of the bytes in memory, never one from here.

Notes appear by rename and are read whole, so any number of processes can use a folder. The oldest
notes are removed when there are more than `KEPT`. A folder that cannot be read or written counts as
empty.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator

from wasmsr import _ffi, realtime
from wasmsr.interp.modules.module import MAGIC, SMALL_MODULE, Module
from wasmsr.record import record

KEPT = 512
"""How many notes a folder holds at most; those used longest ago go first."""

PARTS = {"file": 5, "valid": 2, "about": 1, "part": 2}
"""How the names of notes end, and of how many numbers they are made."""

LONGEST = 16384
"""Bytes of a note that are read."""

SMALLEST = SMALL_MODULE
"""Bytes of a module that is worth a note."""

RACY = 2 * 10**9
"""Nanoseconds for which a file must have been left alone before its times say which it is: clocks
of file systems tick, and two changes within a tick look the same."""

STEP = 1 << 19
"""Bytes of bodies that are validated before it is looked again whether the digest is known."""


@record(frozen=True)
class Note:
    """A note as `wasmsr cache` shows it.

    Attributes:
        name: The name of the note's file.
        kind: "file" or "valid".
        digest: SHA-256 in hexadecimal, or None if the note is damaged.
        used: Seconds since the epoch when the note was last of use.
        path: Where the module was last seen, or None.
        size: Bytes of the module, or None.
    """

    name: str
    kind: str
    digest: str | None
    used: float
    path: str | None = None
    size: int | None = None


class ModuleCache:
    """A folder of notes.

    Attributes:
        found: What came of the last `load`: "known file", "known module", "validated", or, where no
            note was looked for, "small", "text" or "no regular file".
        trouble: The last error of the folder, or None; it has been of no consequence.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.found = ""
        self.trouble: OSError | ValueError | None = None

    def load(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        features: str | Iterable[str] | None = None,
    ) -> Module:
        """Return what `Module.from_file` gives, sooner where the file is known.

        Raises:
            OSError: The file cannot be read.
            ModuleError: As `Module`. Of a module that is known, what is wrong with the body of a
                function is said when it is called.
        """
        with open(path, "rb", buffering=0) as file:
            before = os.fstat(file.fileno())
            # A copy, never a mapping: a file that another process cuts short or writes to must
            # neither end us (SIGBUS) nor change under a function that is being compiled.
            data = file.read()
            after = os.fstat(file.fileno())
        if name is None:
            name = os.path.splitext(os.path.basename(os.fspath(path)))[0]
        if not data.startswith(MAGIC):
            self.found = "text"
            return Module.from_file(path, name=name, features=features)
        if len(data) < SMALLEST:
            self.found = "small"
            return Module(data, name=name, features=features)
        module = Module(data, name=name, features=features, lazy=True)
        known = _identity(before)
        steady = known == _identity(after) and len(data) == before.st_size
        digest = self._read_file_note(known) if steady else None
        if digest is not None and self._is_valid(module, digest):
            self.found = "known file"
            self._use(f"{known}.file")
            return module
        changed = max(before.st_mtime_ns, before.st_ctime_ns)
        steady = steady and 0 < changed < realtime.now() - RACY
        self._validate(module, known if steady else None, os.path.abspath(path))
        return module

    def _validate(self, module: Module, known: str | None, path: str) -> None:
        """Validate and hash at the same time; stop when the digest turns out to be known."""
        answer: list[str] = []

        def work() -> None:
            answer.append(module.digest.hex())

        hashing = threading.Thread(target=work, name="wasmsr-digest", daemon=True)
        hashing.start()
        asked = valid = False
        while not valid and not module.validate(STEP):
            if answer and not asked:
                asked, valid = True, self._is_valid(module, answer[0])
        hashing.join()
        if known is not None:
            self._write(f"{known}.file", _file_note(known, answer[0]))
        if valid:
            self.found = "known module"
        else:
            self.found = "validated"
            self._write(_valid_name(module, answer[0]), _valid_note(answer[0]))
        self._write(f"{answer[0]}.about", _about_note(answer[0], len(module.binary), path))
        self._evict()

    # ---- notes ----

    def _read_file_note(self, known: str) -> str | None:
        text = self._read(f"{known}.file")
        digest = text.partition("\n")[0]
        return digest if text == _file_note(known, digest) and _is_digest(digest) else None

    def _is_valid(self, module: Module, digest: str) -> bool:
        """Return whether a note says that the module was validated.

        If the note turns out to be wrong, it is removed.
        """
        name = _valid_name(module, digest)
        if self._read(name) != _valid_note(digest):
            return False
        self._use(name)
        module.on_invalid = lambda: self._remove(name)
        return True

    def _read(self, name: str) -> str:
        """Return a note's text; an empty one for a note that is not there."""
        try:
            descriptor = os.open(os.path.join(self.folder, name), os.O_RDONLY | os.O_NONBLOCK)
            with open(descriptor, "rb", buffering=0) as file:
                return file.read(LONGEST).decode("ascii", "replace")
        except FileNotFoundError:
            return ""
        except (OSError, ValueError) as error:
            self.trouble = error
            return ""

    def _write(self, name: str, text: str) -> None:
        part = os.path.join(self.folder, f"{os.getpid()}-{threading.get_ident()}.part")
        try:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
                descriptor = os.open(part, flags, 0o600)
                with open(descriptor, "wb", buffering=0) as file:
                    file.write(text.encode())
                os.replace(part, os.path.join(self.folder, name))
            except BaseException:
                self._remove(os.path.basename(part))
                raise
        except (OSError, ValueError) as error:
            self.trouble = error

    def _use(self, name: str) -> None:
        """Record that a note was of use."""
        try:
            os.utime(os.path.join(self.folder, name))
        except (OSError, ValueError) as error:
            self.trouble = error

    def _remove(self, name: str) -> bool:
        try:
            os.unlink(os.path.join(self.folder, name))
        except (OSError, ValueError) as error:
            self.trouble = error
            return False
        return True

    def _about(self, digest: str) -> tuple[str | None, int | None]:
        """Return path and size of the module with this digest, as far as they were noted."""
        text = self._read(f"{digest}.about").splitlines()
        if len(text) != 3 or text[0] != digest or not text[1].isdecimal() or len(text[1]) > 12:
            return None, None
        try:
            return text[2].encode("ascii").decode("unicode_escape"), int(text[1])
        except ValueError:
            return None, int(text[1])

    def _entries(self) -> list[tuple[float, str]]:
        """Return (last use, name) of all notes in the folder, the oldest first."""
        found = []
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    if _is_ours(entry.name):
                        found.append((entry.stat(follow_symlinks=False).st_mtime, entry.name))
        except (OSError, ValueError) as error:
            self.trouble = error
        return sorted(found)

    def _evict(self) -> None:
        for _, name in self._entries()[:-KEPT]:
            self._remove(name)

    def notes(self) -> Iterator[Note]:
        """Return all notes, those used last first."""
        for used, name in reversed(self._entries()):
            stem, _, kind = name.rpartition(".")
            if kind in ("part", "about"):
                continue
            text = self._read(name)
            digest = text.partition("\n")[0]
            wanted = _file_note(stem, digest) if kind == "file" else _valid_note(digest)
            good = text == wanted and _is_digest(digest)
            about = self._about(digest) if good else (None, None)
            yield Note(name, kind, digest if good else None, used, *about)

    def clear(self) -> int:
        """Remove all notes, and return how many there were."""
        self.trouble = None
        removed = sum(self._remove(name) for _, name in self._entries())
        self._raise_trouble()
        return removed

    def _raise_trouble(self) -> None:
        if self.trouble is not None and not isinstance(self.trouble, FileNotFoundError):
            raise self.trouble


def _identity(status: os.stat_result) -> str:
    """Which file it is, and since when it is as it is."""
    values = (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
    return "-".join(f"{value:x}" for value in values)


def _is_ours(name: str) -> bool:
    """Return whether a file in the folder has the name of a note.

    A user names the folder; no other file in it is removed.
    """
    stem, _, kind = name.rpartition(".")
    numbers = stem.split("-")
    if kind in ("valid", "about") and not _is_digest(numbers[0]):
        return False
    return len(numbers) == PARTS.get(kind) and all(
        number and not number.strip("0123456789abcdef") for number in numbers
    )


def _is_digest(text: str) -> bool:
    return len(text) == 64 and not text.strip("0123456789abcdef")


def _file_note(known: str, digest: str) -> str:
    return f"{digest}\nwasmsr 1: of the file {known}\n"


def _about_note(digest: str, size: int, path: str) -> str:
    return f"{digest}\n{size}\n{path.encode('unicode_escape').decode('ascii')}\n"


def _valid_name(module: Module, digest: str) -> str:
    return f"{digest}-{_engine(module.allowed_features):016x}.valid"


def _valid_note(digest: str) -> str:
    return f"{digest}\nwasmsr 1: has been validated whole\n"


def _engine(features: Iterable[str]) -> int:
    """Return a number for this build of the engine and the features that are on.

    Another build can judge a module otherwise.
    """
    from wasmsr import __version__

    built = os.stat(_ffi.__file__)
    said = [__version__, str(built.st_size), str(built.st_mtime_ns), *sorted(features)]
    number = 0xCBF29CE484222325  # FNV-1a: it need only tell builds apart, and hashlib takes long
    for byte in "\0".join(said).encode():
        number = (number ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return number


def default_folder() -> str:
    """Return the user's cache folder, which is that of platformdirs.

    On Linux the path is made here: the import of platformdirs takes as long as to hash a module.
    """
    import sys

    if sys.platform != "linux":
        import platformdirs

        return platformdirs.user_cache_dir("wasmsr")
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.cache")
    return os.path.join(base, "wasmsr")


__all__ = ["ModuleCache", "Note", "default_folder"]
