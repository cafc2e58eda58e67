"""`wasmsr memory`: serves a memory that programs on other machines read and write."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wasmsr.cli.options.tool_options import WIDE
from wasmsr.cli.words.messages import say
from wasmsr.cli.words.units import human_size
from wasmsr.errors import EXIT_USAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wasmsr.mem.serving.arriving import ArrivingMemory
    from wasmsr.mem.serving.memory_images import MemoryImages
    from wasmsr.mem.serving.memory_region import MemoryRegion
    from wasmsr.mem.serving.memory_server import MemoryServer

HELP = """Serves a memory, from which others read and to which they write, until it is ended.

\b
  wasmsr memory                              1 GiB on port 2333 of this machine
  wasmsr memory 4000 --size 256M --shm       for processes of this machine too, without a copy
  wasmsr memory --snapshot-every 10 --folder mem1    saved, and found again after a crash
  wasmsr memory 2334 --from tcp://10.0.0.7:2333      takes over the memory of another process

The wire is that of Scad's memory_server (nanomsg REQ and REP), so Scad's clients work with it.
There is no password: leave it on this machine, or in a network of its own.

With --from, the memory moves here while others use it. Clients of ours are sent here by the other
process, which must run as long as they may ask there; no write is lost or done twice.

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
@click.option(
    "--from",
    "source",
    metavar="URL",
    help="Take over the memory at tcp://HOST:PORT, which moves here; its length is the one there.",
)
@click.option(
    "--address",
    metavar="URL",
    help="Where clients of a memory that moves here find it. Default: --host and PORT.",
)
def memory(port: int, host: str, size: int, shm: bool, every: float | None, folder: Path | None,
           source: str | None, address: str | None) -> int:  # fmt: skip
    """Carry out the command; HELP is its help text."""
    from wasmsr.cli.moving.addresses import state_folder
    from wasmsr.mem.serving.arriving import ArrivingMemory
    from wasmsr.mem.serving.memory_images import MemoryImages, emptied, taken
    from wasmsr.mem.serving.memory_region import MemoryRegion
    from wasmsr.mem.serving.place import own_place, shared_place

    if folder is not None and every is None:
        raise click.UsageError("--folder needs --snapshot-every.")
    if address is not None and source is None:
        raise click.UsageError("--address needs --from.")
    if source is not None and shm:
        raise click.UsageError("--from and --shm do not go together: processes map what is here.")
    if source is not None and address is None and host in ("", "0.0.0.0", "::"):
        raise click.UsageError("--from with such a --host needs --address, which clients are told.")
    images = None
    with ExitStack() as kept:
        if every is not None:
            folder = folder or state_folder(None) / f"memory-{port}"
            kept.enter_context(taken(folder))
            images = MemoryImages(folder)
            if source is not None and images.arrives is not None and has_come(images):
                source, size = None, images.size  # in the run before, which was ended too soon
            images = images if source is None else emptied(folder)
        arriving = None
        if source is not None:
            arriving = ArrivingMemory(source)
            kept.callback(arriving.close)
            arriving.begin()
            size = arriving.size
        server = kept.enter_context(_listening(host, port))
        name = f"wasmsr-memory-{server.port}"
        place = shared_place(size, name) if shm else own_place(size)
        server.region = MemoryRegion(kept.enter_context(place))
        kept.callback(server.region.buffer.release)
        at = f"[{host}]" if ":" in host else host
        found = _filled(server.region, images, arriving, address or f"tcp://{at}:{server.port}")
        server.region.move.decide = None if shm else partial(_decided, images)
        server.start()
        kept.callback(server.stop)
        found += f", shared as {name}" if shm else ""
        where = f"tcp://{host or '*'}:{server.port}"
        click.echo(f"a memory of {human_size(size)} at {where}{found}")
        sys.stdout.flush()
        return _serve(server, images, every, shm)


@contextmanager
def _listening(host: str, port: int) -> Iterator[MemoryServer]:
    """Give a server that listens; its port is free again if it was not started."""
    from wasmsr.mem.serving.memory_region import MemoryRegion
    from wasmsr.mem.serving.memory_server import MemoryServer

    server = MemoryServer(
        MemoryRegion(memoryview(b"")), host, port,
        lambda peer, sentence: say(f"{peer}: {sentence}" if peer else sentence, "warning"),
    )  # fmt: skip
    try:
        yield server
    except BaseException:
        server.close()
        raise


def has_come(images: MemoryImages) -> bool:
    """Find out whether a memory has come that was moving here when this process was ended.

    Raises MoveInDoubt if nobody knows.
    """
    from wasmsr.mem.serving.arriving import ArrivingMemory, MoveFailed

    assert images.arrives is not None
    source, address = images.arrives
    try:
        ArrivingMemory(source).settle(address)
    except MoveFailed:
        return False
    images.arrived()
    return True


def _filled(region: MemoryRegion, images: MemoryImages | None, arriving: ArrivingMemory | None,
            here: str) -> str:  # fmt: skip
    """Fill a memory with what was saved, or with what moves here; return where it is from."""
    from wasmsr.mem.serving.arriving import ArrivingMemory

    if arriving is not None:
        if images is not None:
            images.note_arrival(arriving.url, here)
        arriving.take(region, here, lambda one: images and images.save(one))
        if images is not None:
            images.arrived()
        return f", moved from {arriving.url}"
    if images is None:
        return ""
    if images.arrives is not None:  # this process was ended before it knew
        source, address = images.arrives
        ArrivingMemory(source).settle(address)
        images.arrived()
    images.load(region)
    if images.moved:  # what is here is old, and nobody may write to it
        region.move_to(images.moved)
        return f", which has moved to {images.moved}; clients are sent there"
    return "" if images.is_empty else f", as saved in {images.folder}"


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
            here = images is not None and not server.region.moved
            if images is not None and here and (code is not None or time.monotonic() >= due):
                try:
                    images.save(server.region, every_page=shm)
                except MemoryImageError as error:
                    if code is not None:
                        raise
                    say(str(error), "warning")
            if time.monotonic() >= due:
                due = time.monotonic() + (every or 0)
            if code is not None:
                return code


def _decided(images: MemoryImages | None, there: str) -> None:
    """Keep that the memory has moved, and say it."""
    if images is not None:
        images.note_move(there)
    say(f"the memory has moved to {there}; clients are sent there")


def memory_server() -> None:
    """Run the command `memory_server [PORT] [tcp]`, as Scad's is called."""
    from wasmsr.cli.entry import main
    from wasmsr.cli.running.terminal import end_now

    words = sys.argv[1:]
    if len(words) > 1 and words[1] != "tcp":
        say(f"memory_server: the transport is tcp, not {words[1]}", "error")
        end_now(EXIT_USAGE)
    end_now(main(["memory", *words[:1], *words[2:]]))
