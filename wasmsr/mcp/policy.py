"""The policy file of the server: what sandboxes get, and who may have how many."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wasmsr.errors import EXIT_USAGE, WasiConfigError, WasmsrError, printable
from wasmsr.node.settings.toml_file import FILE_LIMIT, TomlProblem, TomlValue, read_toml
from wasmsr.runspec.kinds import Count, Flag, OptionKind, Seconds, Size
from wasmsr.wasi.filesystem.mounts import Mount

CLIENT_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""Names of clients, which are in messages and in logs."""
DIGEST = re.compile(r"[0-9a-f]{64}")
"""A SHA-256 in hexadecimal digits."""


class PolicyError(WasmsrError):
    """The policy file is wrong.

    Attributes:
        problems: Every problem that was found: where it is, and a sentence.
    """

    exit_code = EXIT_USAGE

    def __init__(self, problems: list[str]) -> None:
        self.problems = [printable(one, 1000) for one in problems]
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        super().__init__(self.problems[0] + more, hint="`wasmsr mcp --help` shows a policy file")


@dataclass(frozen=True)
class SandboxGrant:
    """What each sandbox gets.

    Attributes:
        packages: Package sets that a client may ask for; the first is the default.
        instructions: Instructions that one call may execute; None is no limit.
        seconds: Seconds of one call, after which it is paused.
        memory: Bytes of memory.
        output: Bytes that one call may print.
        files: Bytes of files that a sandbox may hold.
        deterministic: Whether time and random bytes are the same in each sandbox.
        mounts: Folders of the host that every sandbox sees.
    """

    packages: tuple[str, ...] = ("base", "numpy", "numpy+pandas", "scientific")
    instructions: int | None = 20 * 10**9
    seconds: float = 60.0
    memory: int = 1 << 30
    output: int = 1 << 20
    files: int = 64 << 20
    deterministic: bool = False
    mounts: tuple[Mount, ...] = ()


@dataclass(frozen=True)
class ServiceLimits:
    """What one client may have, and what the server has for all.

    Attributes:
        sandboxes: Sandboxes of one client that are open or parked.
        open: Sandboxes of all clients that are in memory. Beyond it idle ones are parked.
        calls: Calls of one client at the same time.
        running: Calls of all clients at the same time; others wait.
        idle: Seconds after which an unused sandbox is parked.
        message: Bytes of one message of a client.
        stall: Seconds that a client may take to send the rest of a message.
        file: Bytes of a file that is put or got.
    """

    sandboxes: int = 50
    open: int = 200
    calls: int = 8
    running: int = 16
    idle: float = 600.0
    message: int = 8 << 20
    stall: float = 10.0
    file: int = 4 << 20


@dataclass(frozen=True)
class McpPolicy:
    """The policy of a server.

    Attributes:
        sandbox: What each sandbox gets.
        service: What clients may have.
        clients: Name of a client, and the SHA-256 of its token. Without clients the server knows
            no names, and listens for this machine only.
    """

    sandbox: SandboxGrant = field(default_factory=SandboxGrant)
    service: ServiceLimits = field(default_factory=ServiceLimits)
    clients: Mapping[str, bytes] = field(default_factory=dict)


KINDS: Mapping[str, Mapping[str, OptionKind]] = {
    "sandbox": {
        "instructions": Count(1),
        "seconds": Seconds(),
        "memory": Size(),
        "output": Size(),
        "files": Size(),
        "deterministic": Flag(),
    },
    "service": {
        "sandboxes": Count(1),
        "open": Count(1),
        "calls": Count(1),
        "running": Count(1),
        "idle": Seconds(),
        "message": Size(),
        "stall": Seconds(),
        "file": Size(),
    },
}
"""Table of the file, and the kind of each key in it that holds one value."""

LISTS: Mapping[str, Mapping[str, Callable[[str], Any]]] = {
    "sandbox": {"packages": str, "mounts": Mount.parse}
}
"""Table of the file, and how an item of each key in it that holds a list is read."""


def read_policy(file: Path) -> McpPolicy:
    """Read a policy file.

    A mount is written as `--dir` takes it: `"data::/data::ro"`. A relative folder begins at the
    folder of the file.

    Raises:
        PolicyError: The file cannot be read or is wrong. The error names all problems.
    """
    try:
        with open(file, "rb") as opened:
            values = read_toml(opened.read(FILE_LIMIT + 1))
    except OSError as error:
        raise PolicyError([f"{file} cannot be read: {error.strerror or error}"]) from error
    except TomlProblem as error:
        line = f":{error.line}" if error.line else ""
        raise PolicyError([f"{file}{line}: {error.sentence}"]) from error
    found: dict[str, dict[str, Any]] = {"sandbox": {}, "service": {}, "clients": {}}
    problems = []
    for one in values:
        try:
            if one.section not in found:
                raise ValueError(_unknown(one.section, found, "table"))
            found[one.section][one.key] = _read(one, file.parent)
        except (ValueError, WasiConfigError) as error:
            line = f":{one.line}" if one.line else ""
            problems.append(f"{file}{line}: {error}")
    if problems:
        raise PolicyError(problems)
    return McpPolicy(
        SandboxGrant(**found["sandbox"]), ServiceLimits(**found["service"]), found["clients"]
    )


def _read(one: TomlValue, folder: Path) -> Any:
    """Return a value of the file. Raises ValueError or WasiConfigError with a sentence."""
    if one.section == "clients":
        return _client(one.key, one.value)
    kinds, lists = KINDS[one.section], LISTS.get(one.section, {})
    if one.key in lists:
        items = one.value if isinstance(one.value, list) else [one.value]
        if not items or not all(isinstance(item, str) for item in items):
            raise ValueError(f"{one.section}.{one.key} is a list of texts")
        read = tuple(lists[one.key](item) for item in items)
        return tuple(_below(item, folder) for item in read) if one.key == "mounts" else read
    kind = kinds.get(one.key)
    if kind is None:
        raise ValueError(_unknown(one.key, (*kinds, *lists), f"setting in [{one.section}]"))
    value = one.value
    if isinstance(kind, Flag) and isinstance(value, bool):
        return value
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{one.section}.{one.key} is neither a text nor a number")
    try:
        return kind.read(value if isinstance(value, str) else repr(value))
    except ValueError as error:
        raise ValueError(f"{one.section}.{one.key}: {error}") from None


def _below(mount: Mount, folder: Path) -> Mount:
    if mount.host is None or mount.host.is_absolute():
        return mount
    return Mount(folder / mount.host, mount.guest, mount.mode, mount.files)


def _client(name: str, digest: Any) -> bytes:
    if not CLIENT_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a client")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise ValueError(f"clients.{name} is the SHA-256 of the client's token, in 64 digits")
    return bytes.fromhex(digest)


def _unknown(name: str, known: Any, what: str) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f"there is no {what} of the name {name!r}" + (f"; is it {near[0]!r}?" if near else "")
