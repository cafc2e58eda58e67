"""`run --preload`: programs of several modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.program.test_linking import BASE, MIDDLE, PROGRAM
from wasmsr.interp.modules.module import assemble

if TYPE_CHECKING:
    from tests.cli.conftest import Cli


def test_the_command(cli: Cli) -> None:
    for name, text in (("base", BASE), ("middle", MIDDLE), ("program", PROGRAM)):
        (cli.folder / f"{name}.wasm").write_bytes(assemble(text.encode()))
    given = ["--preload", "base=base.wasm", "--preload", "middle=middle.wasm"]
    program = "program.wasm"
    assert cli("run", *given, program).returncode == 68
    saved = cli("run", *given, "--snapshot-at", "5000", program)
    assert saved.returncode == 120
    assert cli("run", *given, "--from-snapshot", "snapshot.bin", program).returncode == 68
    alone = cli("run", "--from-snapshot", "snapshot.bin", program)
    assert alone.returncode == 123 and "--preload" in alone.stderr
    again = cli("run", *given, "--snapshot-at", "70000", "--embed-module",
                "--from-snapshot", "snapshot.bin", program)  # fmt: skip
    assert again.returncode == 120
    assert cli("run", "--from-snapshot", "snapshot.bin").returncode == 68
    other = cli("run", "--preload", "base", program)
    assert other.returncode == 2 and "NAME=FILE" in other.stderr
