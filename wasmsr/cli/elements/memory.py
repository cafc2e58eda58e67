"""`wasmsr memory`: serves a memory that programs on other machines read and write."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wasmsr.cli.options.tool_options import WIDE
from wasmsr.cli.words.messages import say
from wasmsr.cli.words.units import human_size
from wasmsr.errors import EXIT_USAGE

if TYPE_CHECKING:
    from wasmsr.mem.serving.memory_images import MemoryImages
    from wasmsr.mem.serving.memory_server import MemoryServer

HELP = """Serves a memory, from which others read and to which they write, until it is ended.

\b
  wasmsr memory                              1 GiB on port 2333 of this machine
  wasmsr memory 4000 --size 256M --shm       for processes of this machine too, without a copy
  wasmsr memory --snapshot-every 10 --folder mem1    saved, and found again after a crash

The wire is that of Scad's memory_server (nanomsg REQ and REP), so Scad's clients work with it.
There is no password: leave it on this machine, or in a network of its own.

SIGTERM and Ctrl-C end it. With --snapshot-every the memory is saved then, too."""


class ByteSize(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A number of bytes, such as 1G."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes; another text ends the command."""
        from wasmsr.mem.sizes import parse_size

        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


@click.command(help=HELP, context_settings=WIDE)
@click.argument("port", type=click.IntRange(0, 65535), default=2333)
@click.option(
    "--host",
    metavar="ADDR",
    default="127.0.0.1",
    show_default=True,
    help="Listen on this address; '' is every address of this machine.",
)
@click.option(
    "--size",
    metavar="SIZE",
    type=ByteSize(),
    default="1G",
    show_default=True,
    help="Length of the memory. What is not written takes no memory of this machine.",
)
@click.option(
    "--shm",
    is_flag=True,
    help="Processes of this machine can map it: shared memory wasmsr-memory-PORT.",
)
@click.option(
    "--snapshot-every",
    "every",
    metavar="SECONDS",
    type=click.FloatRange(0.05),
    help="Save what was written since the last time, so often.",
)
@click.option(
    "--folder",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where it is saved, and found again. "
    "Default: memory-PORT in the folder of this user's state.",
)
def memory(port: int, host: str, size: int, shm: bool, every: float | None,
           folder: Path | None) -> int:  # fmt: skip
    """Carry out the command; HELP is its help text."""
    from wasmsr.cli.moving.addresses import state_folder
    from wasmsr.mem.serving.memory_images import MemoryImages, taken

    if folder is not None and every is None:
        raise click.UsageError("--folder needs --snapshot-every.")
    images = None
    with ExitStack() as kept:
        if every is not None:
            folder = folder or state_folder(None) / f"memory-{port}"
            kept.enter_context(taken(folder))
            images = MemoryImages(folder)
        return _memory(images, port, host, size, shm, every)


def _memory(images: MemoryImages | None, port: int, host: str, size: int, shm: bool,
            every: float | None) -> int:  # fmt: skip
    """Serve a memory until a signal ends it; return the exit code."""
    from wasmsr.mem.serving.memory_region import MemoryRegion
    from wasmsr.mem.serving.memory_server import MemoryServer
    from wasmsr.mem.serving.place import own_place, shared_place

    server = MemoryServer(
        MemoryRegion(memoryview(b"")), host, port,
        lambda peer, sentence: say(f"{peer}: {sentence}" if peer else sentence, "warning"),
    )  # fmt: skip
    name = f"wasmsr-memory-{server.port}"
    try:
        place = shared_place(size, name) if shm else own_place(size)
    except BaseException:
        server.close()
        raise
    with place as buffer:
        server.region = MemoryRegion(buffer)
        if images is not None:
            images.load(server.region)
        server.start()
        found = "" if images is None or images.is_empty else f", as saved in {images.folder}"
        shared = f", shared as {name}" if shm else ""
        click.echo(
            f"a memory of {human_size(size)} at tcp://{host or '*'}:{server.port}{shared}{found}"
        )
        sys.stdout.flush()
        try:
            return _serve(server, images, every, shm)
        finally:
            server.stop()
            server.region.buffer.release()


def _serve(server: MemoryServer, images: MemoryImages | None, every: float | None,
           shm: bool) -> int:  # fmt: skip
    """Save the memory so often, until a signal ends it; return the exit code."""
    from wasmsr.cli.running.terminal import END_CODES, Events
    from wasmsr.mem.serving.memory_images import MemoryImageError

    with Events() as events:
        due = time.monotonic() + (every or 0)
        while True:
            wait = None if every is None else max(0.0, due - time.monotonic())
            arrived, _ = events.wait(wait)
            code = next((code for number, code in END_CODES.items() if number in arrived), None)
            if code is not None:
                server.stop()
            if images is not None and (code is not None or time.monotonic() >= due):
                try:
                    images.save(server.region, every_page=shm)
                except MemoryImageError as error:
                    if code is not None:
                        raise
                    say(str(error), "warning")
                due = time.monotonic() + (every or 0)
            if code is not None:
                return code


def memory_server() -> None:
    """Run the command `memory_server [PORT] [tcp]`, as Scad's is called."""
    from wasmsr.cli.entry import main
    from wasmsr.cli.running.terminal import end_now

    words = sys.argv[1:]
    if len(words) > 1 and words[1] != "tcp":
        say(f"memory_server: the transport is tcp, not {words[1]}", "error")
        end_now(EXIT_USAGE)
    end_now(main(["memory", *words[:1], *words[2:]]))
