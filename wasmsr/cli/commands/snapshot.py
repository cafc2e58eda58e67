"""`wasmsr snapshot`: tools for snapshot files and folders of checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from wasmsr.cli.options.click_types import ClickType
from wasmsr.cli.options.run_options import variable
from wasmsr.cli.options.tool_options import (
    KEY,
    WIDE,
    as_object,
    decrypt_option,
    encrypt_option,
    out_option,
    print_blocks,
    print_object,
    read_trust,
    require_option,
    sign_option,
    write_trust,
)
from wasmsr.errors import EXIT_USAGE
from wasmsr.runspec.kinds import Size

if TYPE_CHECKING:
    from wasmsr.snapshot.tools.opened import OpenedSnapshot
    from wasmsr.snapshot.tools.verify import Verdict
    from wasmsr.snapshot.trust.policy import ReadTrust

HELP = """Tools for snapshots. None of them runs a program.

\b
  wasmsr snapshot verify snapshot.bin
  wasmsr snapshot verify checkpoints
  wasmsr snapshot merge checkpoints -o whole.bin
  wasmsr snapshot convert snapshot.bin -o new.bin --format 2
  wasmsr snapshot convert snapshot.bin -o fast.bin --mapped
  wasmsr snapshot diff snapshot.bin new.bin
  wasmsr snapshot dump-memory snapshot.bin --length 64K -o memory.raw
  wasmsr snapshot keygen key
  wasmsr snapshot sign new.bin --sign-with key
  wasmsr snapshot verify new.bin --require-signature key.pub

A snapshot is a file, of version 1 or 2 of the format, or a folder of checkpoints, which stands for
its last complete one. The base of an incremental file is looked for in the file's folder. A
damaged or incomplete snapshot ends the command with exit code 123."""

VERIFY = """Reads a snapshot, checks all of it, and says its version, form, depth and digests.

Of a folder, all checkpoints are read. Depth is the number of snapshots below one: 0 for a full one.
Signatures are checked. Anybody can sign: only --require-signature says whose signature counts. The
exit code is 0 if everything is complete, otherwise 123."""

MERGE = """Writes one full snapshot of version 2 in place of a chain of incremental ones.

The root digest stays, and so do signatures and the mark of a program that was handed over. FILE
and FOLDER stay as they are. What is written is encrypted only with --encrypt-with."""

CONVERT = """Writes a full snapshot of the same state in another version of the format, or, with
--mapped, a file of version 2 that programs map in place of their memory.

`wasmsr run --from-snapshot` starts from a mapped file without reading its pages, if this user has
made it here and nobody can have changed it since. Nobody may write it, and it is as large as the
program's memory, though zero pages take no room on disk.

Each version has a content digest of its own; that of version 2 is the same after any number of
conversions. Signatures stay if the version does. What is written is encrypted only with
--encrypt-with, so this command also encrypts and decrypts: --format 2 --encrypt-with KEY."""

EXPORT = """Writes what other tools read.


  wasmsr snapshot export snapshot.bin --wasm -o warm.wasm
  wasmsr snapshot export snapshot.bin --runnable -o resume.wasm
  wasmsr snapshot export snapshot.bin --coredump -o core.wasm

--wasm writes a plain module that begins in the saved state, for any engine: its memories, tables
and globals are those of the program, and its code is the same. The program must be between two
calls. What a module cannot have is refused by name: calls in progress, open descriptors but the
standard streams, objects of the host, other instances, imported memories. Limits of the run are not
in it.

--runnable writes a WASI command that goes on where the program stands, in the middle of its calls,
in any engine with WASI preview 1: our interpreter, the module and the state as one module. The
engine gives it the folders of its mounts, and a sentence says how; open files are opened again and
checked. Files that are in the snapshot go to the new folder of --files. With
WASMSR_SNAPSHOT_AFTER=N in its environment it stops after N instructions and writes its state to
WASMSR_SNAPSHOT_TO, which every command here reads as a snapshot.

--coredump writes a Wasm coredump: frames with locals and operands, globals and memories. A
reference, a vector and a local that the program does not read again are missing values in it.

The module is looked for in the snapshot and among the packaged programs, otherwise give
--program."""

SIGN = """Signs a snapshot: says that the holder of the key vouches for its root digest.

All of FILE is verified first. It must be full or incremental, and of version 2; `convert` makes it
so. A signature of the same key is replaced, others stay. Without -o, FILE is replaced by the signed
one."""

KEYGEN = """Makes a key to sign with, in the file FILE, and FILE.pub to check signatures with.

With --encryption, makes a key to encrypt and decrypt with. No file is overwritten. FILE is readable
for this user only; give FILE.pub to whoever checks signatures. Keys of `openssl genpkey -algorithm
ed25519` do as well."""

NOT_ADMITTED = (
    "no record could be written to the user's state folder (XDG_STATE_HOME): the file will be read "
    "and not mapped"
)

DIFF = """Shows what differs between two snapshots: frames, globals, descriptors, pages and regions
of memories, and everything else but where they come from.

A region goes from the first to the last byte that differs in neighbouring pages. The exit code is 0
whether or not they differ; --json says `same`."""

DUMP = """Writes the bytes of a memory to a file.

The file is new: nothing is replaced. Sizes may be hexadecimal (0x400) or have a unit (64K)."""


@click.group(help=HELP, invoke_without_command=True, context_settings=WIDE)
@click.pass_context
def snapshot(ctx: click.Context) -> None:
    """Hold the tools; HELP is its help text, which is printed if no tool is named."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(EXIT_USAGE)


class Place(Size):
    """A number of bytes, which may be hexadecimal."""

    def read(self, text: str) -> int:
        """Return the number that the text gives."""
        if not text.lower().startswith("0x"):
            return super().read(text)
        try:
            return int(text, 16)
        except ValueError:
            raise ValueError(f"{text!r} is not a size such as 0x400, 65536 or 512M.") from None


def copy_options(command: Any) -> Any:
    """Give a command the options of keys to read and write with."""
    for add in (encrypt_option, sign_option, require_option, decrypt_option):
        command = add(command)
    return command


new_file_option = click.option(
    "-o",
    "--output",
    "out",
    required=True,
    metavar="FILE",
    type=click.Path(allow_dash=True),
    help="Write this file, which must not be there; - is standard output.",
)
source_argument = click.argument("source", metavar="FILE|FOLDER", type=click.Path())


@snapshot.command(help=VERIFY, short_help="say whether all is there", context_settings=WIDE)
@source_argument
@decrypt_option
@require_option
@as_object
def verify(source: str, decrypt: str | None, require: str | None, as_json: bool) -> None:
    """Carry out the command; VERIFY is its help text."""
    import os

    from wasmsr.errors import SnapshotError, printable
    from wasmsr.snapshot.tools.verify import verify_file, verify_folder

    trust = read_trust(decrypt, require)
    if not os.path.isdir(source):
        verdict = verify_file(source, trust)
        if as_json:
            print_object(verdict.as_data())
        if verdict.error is not None:
            raise verdict.error
        if not as_json:
            print_blocks([("Snapshot", (), _facts(verdict))])
        return
    verdicts = verify_folder(source, trust)
    whole = [verdict.number for verdict in verdicts if verdict.complete]
    last = whole[-1] if whole else None
    if as_json:
        print_object(
            {
                "folder": source,
                "complete": len(whole) == len(verdicts),
                "last_complete": last,
                "checkpoints": [verdict.as_data() for verdict in verdicts],
            }
        )
    else:
        print_blocks([("Checkpoints", _COLUMNS, [_row(verdict) for verdict in verdicts])])
    if len(whole) < len(verdicts):
        raise SnapshotError(
            f"{len(verdicts) - len(whole)} of {len(verdicts)} checkpoints in {printable(source)} "
            f"are not complete; the last complete one is {'none' if last is None else last}",
        )


@snapshot.command(help=MERGE, short_help="make one full file of a chain", context_settings=WIDE)
@source_argument
@out_option
@copy_options
def merge(source: str, out: str, **keys: str | None) -> None:
    """Carry out the command; MERGE is its help text."""
    _copy(source, out, 2, **keys)


@snapshot.command(
    help=CONVERT, short_help="write another version of the format", context_settings=WIDE
)
@source_argument
@out_option
@click.option(
    "--format",
    "version",
    type=click.Choice(["1", "2"]),
    help="The version of the format to write: a full snapshot.",
)
@click.option("--mapped", is_flag=True, help="Write a mapped snapshot, which has version 2.")
@copy_options
def convert(source: str, out: str, version: str | None, mapped: bool, **keys: str | None) -> None:
    """Carry out the command; CONVERT is its help text."""
    if version == "1" and mapped:
        raise click.UsageError("--mapped writes version 2 of the format.")
    if mapped:
        _copy_mapped(source, out, **keys)
    elif version is None:
        raise click.UsageError("convert needs --format 1, --format 2 or --mapped.")
    else:
        _copy(source, out, int(version), **keys)


@snapshot.command(help=EXPORT, short_help="write a module or a coredump", context_settings=WIDE)
@source_argument
@click.option("--wasm", "kind", flag_value="wasm", help="Write a module.")
@click.option("--runnable", "kind", flag_value="runnable",
              help="Write a WASI command that goes on from the state.")  # fmt: skip
@click.option("--coredump", "kind", flag_value="coredump", help="Write a coredump.")
@click.option("--files", metavar="FOLDER", type=click.Path(),
              help="With --runnable: a new folder for the files in the snapshot.")  # fmt: skip
@click.option(
    "--program",
    metavar="PROGRAM",
    envvar=variable("--program"),
    help="The program that was saved, if its module is not in the snapshot.",
)
@decrypt_option
@require_option
@new_file_option
def export(
    source: str,
    kind: str | None,
    files: str | None,
    program: str | None,
    decrypt: str | None,
    require: str | None,
    out: str,
) -> None:
    """Carry out the command; EXPORT is its help text."""
    from wasmsr.cli.running.snapshots import named_modules
    from wasmsr.cli.words.messages import say
    from wasmsr.cli.words.units import human_size
    from wasmsr.errors import printable
    from wasmsr.snapshot.tools.export import write_coredump, write_runnable, write_wasm

    if kind is None:
        raise click.UsageError("Say what to write: --wasm, --runnable or --coredump.")
    if files is not None and kind != "runnable":
        raise click.UsageError("--files is for --runnable.")
    opened = _opened(source, read_trust(decrypt, require))
    modules = named_modules(opened.state, program, source)
    if kind == "runnable":
        size, command = write_runnable(opened, modules, out, files)
        say(f"{printable(out)}: {human_size(size)}; {command}")
        return
    write = write_wasm if kind == "wasm" else write_coredump
    size = write(opened, modules, out)
    say(f"{printable(out)}: {human_size(size)}")


@snapshot.command(help=SIGN, short_help="sign a snapshot", context_settings=WIDE)
@click.argument("file", type=click.Path())
@click.option("--sign-with", "sign_with", metavar="KEY", envvar=variable("--sign-with"),
              required=True, help=f"The private key. {KEY}")  # fmt: skip
@decrypt_option
@click.option("-o", "--output", "out", metavar="FILE", type=click.Path(allow_dash=True),
              help="Write this file in place of FILE; - is standard output.")  # fmt: skip
def sign(file: str, sign_with: str, decrypt: str | None, out: str | None) -> None:
    """Carry out the command; SIGN is its help text."""
    from wasmsr.cli.words.messages import say
    from wasmsr.errors import printable
    from wasmsr.snapshot.tools.signing import sign_file
    from wasmsr.snapshot.trust.signatures import SigningKey

    signed = sign_file(file, SigningKey.read(sign_with), out, read_trust(decrypt))
    say(f"{printable(out or file)}: signed by {signed.key.hex()}, root digest {signed.root.hex()}")


@snapshot.command(help=KEYGEN, short_help="make a key", context_settings=WIDE)
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--encryption", is_flag=True, help="Make a key to encrypt with.")
def keygen(file: str, encryption: bool) -> None:
    """Carry out the command; KEYGEN is its help text."""
    from wasmsr.cli.words.messages import say
    from wasmsr.errors import printable
    from wasmsr.snapshot.trust.new_keys import new_encryption_key, new_signing_key

    name = printable(file)
    if encryption:
        new_encryption_key(file)
        say(f"{name}: a key to encrypt with; who has it can read what it encrypts")
        return
    public = new_signing_key(file)
    say(f"{name}: a key to sign with; {name}.pub checks its signatures: {public.hex()}")


@snapshot.command(help=DIFF, short_help="show what differs between two", context_settings=WIDE)
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@click.option(
    "--program",
    metavar="PROGRAM",
    envvar=variable("--program"),
    help="The program that was saved, for the names of its functions.",
)
@decrypt_option
@as_object
def diff(a: str, b: str, program: str | None, decrypt: str | None, as_json: bool) -> None:
    """Carry out the command; DIFF is its help text."""
    from wasmsr.cli.running.snapshots import named_modules
    from wasmsr.snapshot.tools.diff import compare
    from wasmsr.snapshot.tools.diff_text import blocks

    trust = read_trust(decrypt)
    one, other = _opened(a, trust), _opened(b, trust)
    modules = named_modules(one.state, program, a)
    found = compare(one, other, modules)
    if as_json:
        print_object(found)
    else:
        print_blocks(blocks(found))


@snapshot.command(
    "dump-memory", help=DUMP, short_help="write a memory's bytes", context_settings=WIDE
)
@source_argument
@click.option("--memory", type=click.IntRange(0), default=0, help="Its address in the store: 0.")
@click.option("--offset", type=ClickType(Place()), default=0, help="The first byte: 0.")
@click.option(
    "--length", type=ClickType(Place()), help="How many bytes; all that follow if it is not given."
)
@new_file_option
@decrypt_option
def dump_memory(
    source: str, memory: int, offset: int, length: int | None, out: str, decrypt: str | None
) -> None:
    """Carry out the command; DUMP is its help text."""
    from wasmsr.cli.words.messages import say
    from wasmsr.errors import printable
    from wasmsr.snapshot.tools import dump

    opened = _opened(source, read_trust(decrypt))
    size = dump.dump_memory(opened, out, memory=memory, offset=offset, length=length)
    say(f"{printable(out)}: {size} bytes of memory {memory} from {offset:#x}")


def _opened(source: str, trust: ReadTrust) -> OpenedSnapshot:
    """Read a snapshot, and say which checkpoints are passed over."""
    from wasmsr.cli.words.messages import say
    from wasmsr.snapshot.tools.opened import open_snapshot

    return open_snapshot(source, warn=lambda text: say(text, "warning"), trust=trust)


def _copy_mapped(
    source: str,
    out: str,
    *,
    decrypt: str | None,
    require: str | None,
    sign: str | None,
    encrypt: str | None,
) -> None:
    from wasmsr.cli.words.messages import say
    from wasmsr.cli.words.units import human_size
    from wasmsr.errors import printable
    from wasmsr.snapshot.tools.copies import write_mapped_copy

    reads, writes = read_trust(decrypt, require), write_trust(sign, encrypt)
    opened = _opened(source, reads)
    copied = write_mapped_copy(opened, out, trust=writes, read=reads)
    if opened.header.encrypted:
        say(f"{printable(out)} is not encrypted, because it is mapped", "warning")
    if opened.decoder.signatures and not copied.signatures:
        say(f"{printable(out)} is not signed: --sign-with KEY signs it", "warning")
    if not copied.admitted:
        say(NOT_ADMITTED, "warning")
    say(
        f"{printable(out)}: {human_size(copied.size)}, version 2, mapped, "
        f"root digest {copied.root.hex()}"
    )


def _copy(
    source: str,
    out: str,
    version: int,
    *,
    decrypt: str | None,
    require: str | None,
    sign: str | None,
    encrypt: str | None,
) -> None:
    from wasmsr.cli.words.messages import say
    from wasmsr.cli.words.units import human_size
    from wasmsr.errors import printable
    from wasmsr.snapshot.tools.copies import write_full

    if version == 1 and (sign or encrypt):
        raise click.UsageError("Version 1 can be neither signed nor encrypted; take --format 2.")
    reads, writes = read_trust(decrypt, require), write_trust(sign, encrypt)
    opened = _opened(source, reads)
    copied = write_full(opened, out, version=version, trust=writes, read=reads)
    if opened.header.encrypted and not encrypt:
        say(f"{printable(out)} is not encrypted: --encrypt-with KEY encrypts it", "warning")
    if opened.decoder.signatures and not copied.signatures:
        say(f"{printable(out)} is not signed: its version has another root digest", "warning")
    say(
        f"{printable(out)}: {human_size(copied.size)}, version {version}, full, "
        f"root digest {copied.root.hex()}"
    )


_COLUMNS = ("", "form", "depth", "size", "content digest", "")


def _facts(verdict: Verdict) -> list[tuple[str, str]]:
    from wasmsr.snapshot.inspect.text_tables import size

    assert verdict.size is not None and verdict.root is not None and verdict.content is not None
    rows = [
        ("complete", "yes"),
        ("format version", str(verdict.version)),
        ("form", str(verdict.form)),
        ("depth", str(verdict.depth)),
        ("size", size(verdict.size)),
        ("root digest", verdict.root.hex()),
        ("content digest", verdict.content.hex()),
    ]
    if verdict.encrypted:
        rows.append(("encrypted", "yes"))
    rows += [("signed by", key.hex()) for key, _ in verdict.signatures]
    if verdict.handed:
        rows.append(("owner", "another host: this program was handed over"))
    return rows


def _row(verdict: Verdict) -> tuple[str, ...]:
    from wasmsr.snapshot.inspect.text_tables import size

    number = str(verdict.number)
    if verdict.error is not None:
        return (number, "-", "-", "-", "-", verdict.error.message)
    assert verdict.size is not None and verdict.content is not None
    said = "complete, handed over" if verdict.handed else "complete"
    said += ", encrypted" if verdict.encrypted else ""
    said += "".join(f", signed by {key.hex()[:16]}" for key, _ in verdict.signatures)
    form, depth = str(verdict.form), str(verdict.depth)
    return (number, form, depth, size(verdict.size), verdict.content.hex(), said)
