"""The options of `wasmsr remote`, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wasmsr.cli import programs
from wasmsr.runspec.run_spec import RunSpec

if TYPE_CHECKING:
    from wasmsr.migrate.streams.relays import StdinAfterMove
    from wasmsr.wasi.state.tree_restore import OnChanged

DEFAULT = "transcoding"
"""The program that moves if the user names none."""


@dataclass
class RemoteOptions:
    """The values of the options; `wasmsr remote --help` describes them."""

    port: int | None
    peer: str | None
    send: bool
    program: str | None
    args: tuple[str, ...]
    every: float
    max_downtime: float
    max_rounds: int
    stop_and_copy: bool
    auto_converge: bool
    durable: str
    dirs: tuple[str, ...]
    carry_limit: int | None
    on_changed: OnChanged | None
    env: tuple[str, ...]
    stdin: str | None
    stdin_after_move: StdinAfterMove
    stdout_after_move: str
    tcp_listen: tuple[str, ...]
    max_memory: int | None
    features: str | None
    state_dir: str | None
    listen: str | None
    token_file: str | None
    tls_certificate: str | None
    tls_key: str | None
    tls_authority: str | None
    tls_revoked: str | None
    insecure: bool
    lease: float | None
    register: str | None
    unfenced: tuple[str, ...]
    forget: str | None
    json: bool

    @property
    def named(self) -> programs.NamedProgram | None:
        """The packaged program that the user named, or the default; None for another program."""
        return programs.find(self.program or DEFAULT)

    def spec(self) -> RunSpec:
        """Return the description of the programs that run at this end."""
        return RunSpec.from_options(
            {
                "dir": self.dirs,
                "carry-limit": self.carry_limit,
                "on-changed": self.on_changed,
                "env": self.env,
                "tcp-listen": self.tcp_listen,
                "max-memory": self.max_memory,
                "features": self.features,
            }
        )
