"""Options that several commands for snapshots have, and what follows from them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from wasmsr.cli.options.run_options import variable

if TYPE_CHECKING:
    from wasmsr.snapshot.inspect.text_tables import Block
    from wasmsr.snapshot.trust.policy import ReadTrust, WriteTrust

WIDE = {"max_content_width": 100}
"""How wide the help texts are."""

KEY = "KEY is a FILE, env:NAME for a variable, or fd:N for an open descriptor."


def option(*names: str, **attributes: Any) -> Callable[[Any], Any]:
    """Return a click option that is also a variable, WASMSR_SIGN_WITH for --sign-with."""
    return click.option(*names, envvar=variable(names[0]), **attributes)


as_object = option("--json", "as_json", is_flag=True, help="Print all of it as one object.")

out_option = click.option(
    "-o",
    "--output",
    "out",
    required=True,
    metavar="FILE",
    type=click.Path(allow_dash=True),
    help="Write this file; one that is there must be a snapshot of the same program. - is standard "
    "output.",
)

decrypt_option = option(
    "--decrypt-with", "decrypt", metavar="KEY", help=f"The key of an encrypted snapshot. {KEY}"
)
require_option = option(
    "--require-signature",
    "require",
    metavar="KEY",
    help="Refuse what none of these public keys has signed, each checkpoint of a chain.",
)
sign_option = option("--sign-with", "sign", metavar="KEY", help=f"Sign what is written. {KEY}")
encrypt_option = option("--encrypt-with", "encrypt", metavar="KEY", help="Encrypt what is written.")


def read_trust(decrypt: str | None, require: str | None = None) -> ReadTrust:
    """Return what the options of a reader mean. Raises KeySourceError."""
    from wasmsr.snapshot.trust.policy import ReadTrust

    return ReadTrust.read((decrypt,), () if require is None else (require,))


def write_trust(sign: str | None, encrypt: str | None) -> WriteTrust:
    """Return what the options of a writer mean. Raises KeySourceError."""
    from wasmsr.snapshot.trust.policy import WriteTrust

    return WriteTrust.read(sign, encrypt)


def print_object(data: dict[str, Any]) -> None:
    """Print one object as JSON."""
    import json

    sys.stdout.write(json.dumps(data, indent=2) + "\n")
    sys.stdout.flush()


def print_blocks(blocks: Iterable[Block]) -> None:
    """Print tables of text."""
    from wasmsr.snapshot.inspect.text_tables import lines

    sys.stdout.write("".join(f"{line}\n" for line in lines(blocks)))
    sys.stdout.flush()
