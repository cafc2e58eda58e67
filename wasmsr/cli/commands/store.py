"""`wasmsr store`: keeps snapshots by name in one folder, with equal pages only once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from wasmsr.cli.options.tool_options import (
    WIDE,
    as_object,
    decrypt_option,
    encrypt_option,
    option,
    out_option,
    print_blocks,
    print_object,
    read_trust,
    require_option,
    sign_option,
    write_trust,
)
from wasmsr.errors import EXIT_USAGE

if TYPE_CHECKING:
    from wasmsr.snapshot.store.store import SnapshotStore, StoredName

HELP = """Keeps snapshots by name in one place. Equal pages, modules and pieces of files are there
once, whichever snapshots and programs have them.

\b
  wasmsr store put snapshot.bin monday
  wasmsr store put checkpoints tuesday
  wasmsr store ls
  wasmsr store get monday -o snapshot.bin
  wasmsr store map monday
  wasmsr store rm monday
  wasmsr store gc
  wasmsr store verify

The store is the folder of --store, of WASMSR_STORE, or one in the user's data folder; or a place in
an object store, by its address: --store s3://bucket/prefix. Several commands can work in it at
once. A damaged store ends the command with exit code 123."""

PUT = """Stores a snapshot, of version 1 or 2 of the format, or the last complete checkpoint of a
folder.

A name has 1 to 128 of the characters A-Z a-z 0-9 . _ + @ = - and begins with a letter, a digit or
_. The name appears when all of the snapshot is in the store. Signatures stay. A store is not
encrypted: an encrypted snapshot needs --decrypt-with."""

GET = """Writes a full snapshot of version 2. Its root digest is that of the snapshot that was put;
one of version 1 gets the digest that `wasmsr snapshot convert --format 2` gives."""

MAP = """Prints the path of a mapped file of a stored snapshot. Programs start from it without
reading its pages: wasmsr run --from-snapshot "$(wasmsr store map NAME)".

The file is made once, in the folder of the store. It belongs to the store: `wasmsr store gc`
removes it when the name is gone or has another snapshot."""

LS = """Shows all names: the bytes of each snapshot as it is in memory, the bytes of its pieces in
the store, and how many of these it shares with other names."""

RM = """Removes a name. What only this name needs stays until `wasmsr store gc`."""

GC = """Removes pages and pieces that no name needs, and the packs that only have such. Waits until
no other command writes to the store."""

VERIFY = """Reads everything, compares all digests, and says what is damaged.

The exit code is 0 if everything is complete, otherwise 123."""


@click.group(help=HELP, invoke_without_command=True, context_settings=WIDE)
@click.pass_context
def store(ctx: click.Context) -> None:
    """Hold the commands; HELP is its help text, which is printed if no command is named."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(EXIT_USAGE)


store_option = option(
    "--store",
    "folder",
    metavar="DIR|URL",
    help="The folder of the store, or its address: s3://BUCKET/PREFIX. Default: a folder in the "
    "user's data folder.",
)

name_argument = click.argument("name", metavar="NAME")


@store.command(help=PUT, short_help="store a snapshot", context_settings=WIDE)
@click.argument("source", metavar="FILE|FOLDER", type=click.Path())
@name_argument
@store_option
@click.option("--replace", is_flag=True, help="Give the new snapshot a name that is there.")
@decrypt_option
@require_option
def put(
    source: str,
    name: str,
    folder: str | None,
    replace: bool,
    decrypt: str | None,
    require: str | None,
) -> None:
    """Carry out the command; PUT is its help text."""
    from wasmsr.cli.words.messages import say
    from wasmsr.cli.words.units import human_size
    from wasmsr.snapshot.store.store import check_name

    check_name(name)
    done = _store(folder, create=True).put(
        source,
        name,
        replace=replace,
        warn=lambda text: say(text, "warning"),
        trust=read_trust(decrypt, require),
    )
    say(
        f"{name}: {done.added} of {done.pieces} pieces are new, {human_size(done.written)} "
        f"written, root digest {done.root.hex()}"
    )


@store.command(help=GET, short_help="write a stored snapshot to a file", context_settings=WIDE)
@name_argument
@store_option
@out_option
@require_option
@sign_option
@encrypt_option
def get(
    name: str,
    folder: str | None,
    out: str,
    require: str | None,
    sign: str | None,
    encrypt: str | None,
) -> None:
    """Carry out the command; GET is its help text."""
    from wasmsr.cli.words.messages import say
    from wasmsr.cli.words.units import human_size
    from wasmsr.errors import printable

    trust, write = read_trust(None, require), write_trust(sign, encrypt)
    copied = _store(folder).get(name, out, trust=trust, write=write)
    say(f"{printable(out)}: {human_size(copied.size)}, root digest {copied.root.hex()}")


@store.command("map", help=MAP, short_help="make a mapped file", context_settings=WIDE)
@name_argument
@store_option
@require_option
def map_(name: str, folder: str | None, require: str | None) -> None:
    """Carry out the command; MAP is its help text."""
    from wasmsr.cli.commands.snapshot import NOT_ADMITTED
    from wasmsr.cli.words.messages import say

    found = _store(folder).mapped(name, trust=read_trust(None, require))
    if not found.admitted:
        say(NOT_ADMITTED, "warning")
    click.echo(found.path)


@store.command(help=LS, short_help="show all names", context_settings=WIDE)
@store_option
@as_object
def ls(folder: str | None, as_json: bool) -> None:
    """Carry out the command; LS is its help text."""
    found = _store(folder)
    rows = found.ls()
    if as_json:
        print_object({"store": found.folder.path, "names": [_as_data(row) for row in rows]})
        return
    block = ("Snapshots", ("name", "size", "stored", "shared", "root digest"), _rows(rows))
    print_blocks([block])


@store.command(help=RM, short_help="remove a name", context_settings=WIDE)
@name_argument
@store_option
def rm(name: str, folder: str | None) -> None:
    """Carry out the command; RM is its help text."""
    _store(folder).remove(name)


@store.command(help=GC, short_help="remove what no name needs", context_settings=WIDE)
@store_option
def gc(folder: str | None) -> None:
    """Carry out the command; GC is its help text."""
    from wasmsr.cli.words.messages import say
    from wasmsr.cli.words.units import human_size

    done = _store(folder).gc()
    for pack in done.kept:
        say(f"pack {pack} is damaged and stays as it is: wasmsr store verify says more", "warning")
    say(f"{done.pieces} pieces removed, {human_size(max(0, done.bytes))} freed")


@store.command(help=VERIFY, short_help="say what is damaged", context_settings=WIDE)
@store_option
@as_object
def verify(folder: str | None, as_json: bool) -> None:
    """Carry out the command; VERIFY is its help text."""
    from wasmsr.errors import SnapshotError, printable

    found = _store(folder)
    verdicts = list(found.verify())
    wrong = [(what, error) for what, error in verdicts if error is not None]
    if as_json:
        print_object(
            {
                "store": found.folder.path,
                "complete": not wrong,
                "checked": len(verdicts),
                "damaged": [{"what": what, "error": error.message} for what, error in wrong],
            }
        )
    else:
        rows = [(what, "complete" if error is None else error.message) for what, error in verdicts]
        print_blocks([("Store", (), rows)])
    if wrong:
        raise SnapshotError(
            f"{len(wrong)} of {len(verdicts)} packs and snapshots in "
            f"{printable(found.folder.path)} are damaged",
            hint="remove the .index file of each damaged pack, and put the damaged snapshots again "
            "with --replace",
        )


def _store(folder: str | None, *, create: bool = False) -> SnapshotStore:
    from wasmsr.snapshot.store.store import SnapshotStore

    if folder is None:
        from platformdirs import user_data_path

        folder = str(user_data_path("wasmsr", appauthor=False) / "store")
    return SnapshotStore(folder, create=create)


def _as_data(row: StoredName) -> dict[str, object]:
    return {
        "name": row.name,
        "root": None if row.root is None else row.root.hex(),
        "handed": row.handed,
        "size": row.plain,
        "stored": row.stored,
        "shared": row.shared,
        "pieces": row.pieces,
        "error": None if row.error is None else row.error.message,
    }


def _rows(rows: list[StoredName]) -> list[tuple[str, ...]]:
    from wasmsr.snapshot.inspect.text_tables import size

    return [
        (
            row.name,
            size(row.plain),
            size(row.stored),
            size(row.shared),
            (row.root or b"").hex() if row.error is None else row.error.message,
        )
        for row in rows
    ]
