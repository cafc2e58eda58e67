"""What a sandbox gives back: plain values."""

from __future__ import annotations

from dataclasses import dataclass, field

from wasmsr.errors import WasmsrError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Literal


class SandboxError(WasmsrError):
    """A sandbox cannot do what was asked of it: it is closed, busy, or has no such snapshot."""


@dataclass(frozen=True)
class SandboxLimits:
    """What a sandbox may use. None is no limit.

    Attributes:
        instructions: WebAssembly instructions of one call.
        seconds: Time of one call, on the host's clock.
        memory: Bytes of memory, rounded down to pages of 64 KiB.
        output: Bytes of standard output, standard error and what is displayed in one call; the
            result's value may have as many again.
        files: Bytes of all files in each of the sandbox's own folders, which are /work and /tmp.

    Raises:
        ValueError: A limit is no number above 0.
    """

    instructions: int | None = None
    seconds: float | None = None
    memory: int = 1 << 30
    output: int | None = 10 << 20
    files: int = 256 << 20

    def __post_init__(self) -> None:
        for name in ("instructions", "seconds", "memory", "output", "files"):
            value = getattr(self, name)
            if value is None and name not in ("memory", "files"):
                continue
            kinds = (int, float) if name == "seconds" else int
            if isinstance(value, bool) or not isinstance(value, kinds) or not value > 0:
                raise ValueError(f"the limit {name} must be a number above 0, not {value!r:.40}")


@dataclass(frozen=True)
class SandboxValue:
    """A value as it is shown.

    Attributes:
        data: MIME type to content; text is str, images are bytes.
    """

    data: Mapping[str, str | bytes]

    @property
    def text(self) -> str:
        """Its `repr`."""
        return str(self.data.get("text/plain", ""))

    @property
    def html(self) -> str | None:
        """Its HTML, such as that of a data frame; None if it has none."""
        found = self.data.get("text/html")
        return found if isinstance(found, str) else None

    @property
    def png(self) -> bytes | None:
        """Its picture, such as that of a figure; None if it has none."""
        found = self.data.get("image/png")
        return found if isinstance(found, bytes) else None


@dataclass(frozen=True)
class SandboxFailure:
    """Why a call of a sandbox failed.

    Attributes:
        type: The exception's name in the guest; or `LimitExceeded`, `Trapped`, `Exited`.
        message: What it says.
        traceback: As the guest's language prints it; empty if the guest could not.
        limit: The name of the limit that stopped the call, or None.
        rolled_back: Whether the sandbox is in the state before the call, because the call could
            not be ended in another way.
    """

    type: str
    message: str
    traceback: str = ""
    limit: str | None = None
    rolled_back: bool = False


@dataclass(frozen=True)
class ToolCall:
    """A call of a function of the host that has no answer yet.

    Attributes:
        id: Its name, which no other call has.
        name: The tool.
        arguments: By name.
        state: "asked", or "begun" if the tool was called and may have acted.
    """

    id: str
    name: str
    arguments: Mapping[str, Any]
    state: Literal["asked", "begun"] = "asked"


@dataclass(frozen=True)
class SandboxResult:
    """What came of a call.

    Attributes:
        stdout, stderr: What it wrote.
        value: The value of its last expression, or None.
        error: Why it failed, or None.
        artifacts: What it showed by `display` and as figures, in order.
        instructions: Instructions of WebAssembly that it took.
        seconds: How long it ran.
        status: "finished"; "interrupted", and `resume` goes on; or "waiting" for `pending`.
        pending: The tool call that waits for `deliver` or `fail`.
    """

    stdout: str = ""
    stderr: str = ""
    value: SandboxValue | None = None
    error: SandboxFailure | None = None
    artifacts: tuple[SandboxValue, ...] = field(default=())
    instructions: int = 0
    seconds: float = 0.0
    status: Literal["finished", "interrupted", "waiting"] = "finished"
    pending: ToolCall | None = None


@dataclass(frozen=True)
class Completions:
    """What code can go on with: each of `matches` replaces the characters `start` to `end`."""

    matches: tuple[str, ...]
    start: int
    end: int
