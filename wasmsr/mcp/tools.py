"""The tools that a language model has: from a call to the shelf, and from a result to content."""

from __future__ import annotations

import base64
import binascii
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, ImageContent, TextContent

import wasmsr
from wasmsr.errors import WasmsrError
from wasmsr.mcp.policy import McpPolicy
from wasmsr.mcp.shelf import SandboxShelf

if sys.version_info >= (3, 12):
    from typing import TypedDict
else:  # the SDK makes schemas of these classes, and needs this one before 3.12
    from typing_extensions import TypedDict

INSTRUCTIONS = """\
Python in sandboxes that keep their state. open_sandbox gives one an id. run_code runs code in it; \
variables, imports and files stay. snapshot_sandbox before a step that may be wrong, \
rewind_sandbox after it. fork_sandbox tries several next steps from one state. A call that takes \
too long is paused, not ended: continue_run goes on with it. A sandbox that is not used is parked \
by itself and wakes at the next call. Files are in /work. There is no network, and there are no \
subprocesses."""
"""What a model hears of the server."""

OWNER = "wasmsr.owner"
"""The key of an HTTP request's scope under which the name of its client is."""

Value = TypeVar("Value")


class RunOutput(TypedDict):
    """What a run gives, as an object."""

    sandbox: str
    status: str
    stdout: str
    stderr: str
    value: str | None
    error: str | None
    instructions: int
    seconds: float


class SandboxInfo(TypedDict):
    """What is said of a sandbox."""

    sandbox: str
    name: str
    packages: str
    state: str
    snapshots: list[str]


class FileInfo(TypedDict):
    """A file that was put or got; `base64` is for content that is no text."""

    path: str
    size: int
    text: str | None
    base64: str | None


class SandboxTools:
    """The tools, bound to a shelf."""

    def __init__(self, shelf: SandboxShelf, policy: McpPolicy) -> None:
        """Make the tools; `make_server` registers them."""
        self._shelf = shelf
        self._policy = policy
        self._running = anyio.CapacityLimiter(policy.service.running)
        self._calls: dict[str, anyio.CapacityLimiter] = {}

    async def open_sandbox(
        self, ctx: Context, packages: str | None = None, name: str = ""
    ) -> SandboxInfo:
        """Open a new Python sandbox. `packages` is the set of packages that it has; without it the
        server's default. Returns the id under which the other tools know it.
        """
        owner = _owner(ctx)
        one = await self._do(owner, lambda: self._shelf.open(owner, packages, name))
        return _info(one.described())

    async def list_sandboxes(self, ctx: Context) -> list[SandboxInfo]:
        """List your sandboxes."""
        owner = _owner(ctx)
        return [_info(one) for one in self._shelf.listed(owner)]

    async def run_code(
        self, ctx: Context, sandbox: str, code: str, seconds: float | None = None
    ) -> Annotated[CallToolResult, RunOutput]:
        """Run Python in a sandbox. Returns what it printed, the value of its last expression, and
        figures. After `seconds` the run is paused, and continue_run goes on with it.
        """
        return await self._run(
            ctx, sandbox, lambda owner: self._shelf.run(owner, sandbox, code, seconds)
        )

    async def continue_run(
        self, ctx: Context, sandbox: str, seconds: float | None = None
    ) -> Annotated[CallToolResult, RunOutput]:
        """Go on with a run that was paused. Returns the whole run's output."""
        return await self._run(
            ctx, sandbox, lambda owner: self._shelf.resume(owner, sandbox, seconds)
        )

    async def snapshot_sandbox(self, ctx: Context, sandbox: str, name: str | None = None) -> str:
        """Keep the state of a sandbox under a name. Returns the name."""
        owner = _owner(ctx)
        return await self._do(owner, lambda: self._shelf.snapshot(owner, sandbox, name))

    async def rewind_sandbox(self, ctx: Context, sandbox: str, to: str | None = None) -> str:
        """Let a sandbox go back to a snapshot, by default the last. Returns the snapshot's name."""
        owner = _owner(ctx)
        return await self._do(owner, lambda: self._shelf.rewind(owner, sandbox, to))

    async def fork_sandbox(self, ctx: Context, sandbox: str, count: int = 1) -> list[SandboxInfo]:
        """Make copies of a sandbox. Each has the variables and files of now, and goes its own way
        from there.
        """
        owner = _owner(ctx)
        copies = await self._do(owner, lambda: self._shelf.fork(owner, sandbox, count))
        return [_info(one.described()) for one in copies]

    async def park_sandbox(self, ctx: Context, sandbox: str) -> str:
        """Put a sandbox on disk, where it uses no memory. The next call wakes it."""
        owner = _owner(ctx)
        await self._do(owner, lambda: self._shelf.park(owner, sandbox))
        return "parked"

    async def close_sandbox(self, ctx: Context, sandbox: str) -> str:
        """End a sandbox; its variables and files are gone."""
        owner = _owner(ctx)
        # Not in the queue of calls: what fills the queue can be ended.
        await _in_thread(lambda: self._shelf.close(owner, sandbox))
        return "closed"

    async def put_file(
        self,
        ctx: Context,
        sandbox: str,
        path: str,
        text: str | None = None,
        base64: str | None = None,
    ) -> FileInfo:
        """Write a file of a sandbox, given as `text` or as `base64`."""
        owner = _owner(ctx)
        data = _content(text, base64)
        await self._do(owner, lambda: self._shelf.put(owner, sandbox, path, data))
        return FileInfo(path=path, size=len(data), text=None, base64=None)

    async def get_file(self, ctx: Context, sandbox: str, path: str) -> FileInfo:
        """Read a file of a sandbox. Content that is UTF-8 is in `text`, other content in
        `base64`.
        """
        owner = _owner(ctx)
        data = await self._do(owner, lambda: self._shelf.get(owner, sandbox, path))
        try:
            return FileInfo(path=path, size=len(data), text=data.decode("utf-8"), base64=None)
        except UnicodeDecodeError:
            coded = base64.b64encode(data).decode()
            return FileInfo(path=path, size=len(data), text=None, base64=coded)

    async def list_files(self, ctx: Context, sandbox: str, path: str = "/work") -> list[str]:
        """List a folder of a sandbox."""
        owner = _owner(ctx)
        return await self._do(owner, lambda: self._shelf.files(owner, sandbox, path))

    # ---- inside

    async def _run(self, ctx: Context, sandbox: str, call: Callable[[str], Any]) -> CallToolResult:
        owner = _owner(ctx)
        begun = anyio.Event()

        def stop() -> None:
            self._shelf.interrupt(owner, sandbox)

        result = await self._do(owner, lambda: call(owner), stop, begun)
        return as_content(sandbox, result)

    async def _do(
        self,
        owner: str,
        call: Callable[[], Value],
        stop: Callable[[], None] | None = None,
        begun: anyio.Event | None = None,
    ) -> Value:
        """Make a blocking call when its client and the server have a place for it.

        If the client gives the call up, `stop` pauses what runs; a call that has not begun is
        never made.
        """
        mine = self._calls.get(owner)
        if mine is None:
            mine = self._calls[owner] = anyio.CapacityLimiter(self._policy.service.calls)
        async with mine, self._running:
            if begun is not None:
                begun.set()
            try:
                return await _in_thread(call)
            except anyio.get_cancelled_exc_class():
                if stop is not None:
                    with anyio.CancelScope(shield=True):
                        await _quietly(lambda: _in_thread(stop))
                raise


async def _in_thread(call: Callable[[], Value]) -> Value:
    """Make a blocking call on a thread. Raises ToolError for an error that clients may read."""
    try:
        # Each caller has a place of its own limiter already, so the threads need none.
        found: Value = await anyio.to_thread.run_sync(
            call, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
        )
        return found
    except WasmsrError as error:
        raise ToolError(f"{error.message}; {error.hint}" if error.hint else error.message) from None


async def _quietly(action: Callable[[], Awaitable[object]]) -> None:
    try:
        await action()
    except ToolError:
        return  # it has ended meanwhile


def _owner(ctx: Context) -> str:
    """Return the name of the client: that of its token, "" on standard input."""
    request = ctx.request_context.request
    return str(request.scope.get(OWNER, "")) if request is not None else ""


def _info(data: dict[str, Any]) -> SandboxInfo:
    found: SandboxInfo = SandboxInfo(**data)  # type: ignore[typeddict-item]
    return found


def _content(text: str | None, coded: str | None) -> bytes:
    if (text is None) == (coded is None):
        raise ToolError("give either text or base64")
    if text is not None:
        return text.encode("utf-8", "surrogatepass")
    assert coded is not None
    try:
        return base64.b64decode(coded, validate=True)
    except (binascii.Error, ValueError):
        raise ToolError("this is no base64") from None


def as_content(sandbox: str, result: Any) -> CallToolResult:
    """Return a result of a sandbox as text and images for the model, and as an object."""
    error = result.error
    value = result.value
    parts = [result.stdout.rstrip("\n"), result.stderr.rstrip("\n")]
    content: list[Any] = []
    for shown in (*result.artifacts, *([value] if value is not None else [])):
        image = shown.data.get("image/png")
        if isinstance(image, bytes):
            coded = base64.b64encode(image).decode()
            content.append(ImageContent(type="image", data=coded, mime_type="image/png"))
        elif shown.text:
            parts.append(shown.text)
    if error is not None:
        parts.append((error.traceback or f"{error.type}: {error.message}").rstrip("\n"))
    if result.status != "finished":
        parts.append("[paused: continue_run goes on with it]")
    text = "\n".join(part for part in parts if part)
    if text or not content:
        content.insert(0, TextContent(type="text", text=text or "[no output]"))
    output = RunOutput(
        sandbox=sandbox,
        status="paused" if result.status != "finished" else result.status,
        stdout=result.stdout,
        stderr=result.stderr,
        value=None if value is None else value.text,
        error=None if error is None else f"{error.type}: {error.message}",
        instructions=result.instructions,
        seconds=result.seconds,
    )
    return CallToolResult(
        content=content, structured_content=dict(output), is_error=error is not None
    )


def make_server(shelf: SandboxShelf, policy: McpPolicy) -> MCPServer:
    """Return the server with all its tools, which any transport can serve."""
    server: MCPServer = MCPServer(
        "wasmsr", instructions=INSTRUCTIONS, version=wasmsr.__version__, log_level="WARNING"
    )
    tools = SandboxTools(shelf, policy)
    for tool in (
        *(tools.open_sandbox, tools.list_sandboxes, tools.run_code, tools.continue_run),
        *(tools.snapshot_sandbox, tools.rewind_sandbox, tools.fork_sandbox, tools.park_sandbox),
        *(tools.close_sandbox, tools.put_file, tools.get_file, tools.list_files),
    ):
        server.add_tool(tool, description=" ".join((tool.__doc__ or "").split()))
    return server
