"""Every setting of a node, one row each.

A setting has one name in the file (`key` in the table `[section]`), one flag and one variable. The
command line, the reader of the file, `--check-config` and the documents are made of these rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wasmsr.node.settings import kinds
from wasmsr.runspec.kinds import (
    Choice,
    Count,
    Flag,
    Folder,
    OptionKind,
    ReadableFile,
    RepeatedText,
    Seconds,
    Size,
)

PLAIN = ("node", "access", "fleet")
"""Sections whose names are not part of their flags, which other commands have too."""


@dataclass(frozen=True)
class SettingRow:
    """One setting.

    Attributes:
        section: The table of the file that has it.
        key: Its name there.
        kind: What its text means.
        metavar: The name of its value, for help; "" for a flag.
        help: What it does.
        default: Its value if nobody sets it.
    """

    section: str
    key: str
    kind: OptionKind
    metavar: str
    help: str
    default: Any = None

    @property
    def name(self) -> str:
        """The name in messages: "tls.key"."""
        return f"{self.section}.{self.key}"

    @property
    def field(self) -> str:
        """The name in Python: "tls_key"."""
        words = self.key if self.section in PLAIN else f"{self.section}_{self.key}"
        return words.replace("-", "_")

    @property
    def flag(self) -> str:
        """The option of the command line: "--tls-key"."""
        return "--" + self.field.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable: "WASMSR_TLS_KEY"."""
        return "WASMSR_" + self.field.upper()


ROWS = (
    SettingRow("node", "listen", kinds.ListenAddress(), "[HOST:]PORT",
        "Where the node listens.", "127.0.0.1:7443"),
    SettingRow("node", "state-dir", Folder(), "FOLDER",
        "Keep journals, output and checkpoints there. Default: a folder of the user's."),
    SettingRow("node", "http", kinds.ListenAddress(), "[HOST:]PORT",
        "Serve the page for people there."),
    SettingRow("node", "metrics", kinds.ListenAddress(), "[HOST:]PORT",
        "Serve metrics for Prometheus there."),
    SettingRow("node", "spans", kinds.CollectorAddress(), "URL",
        "Send spans of moves to this collector of OpenTelemetry (OTLP over HTTP), such as "
        "http://127.0.0.1:4318."),
    SettingRow("node", "advertise", kinds.ListenAddress(), "[HOST:]PORT",
        "Where other nodes call this one. Default: the port of --listen, at the address from which "
        "this node calls them."),
    SettingRow("node", "on-stop", Choice("checkpoint", "drain", "kill"), "checkpoint|drain|kill",
        "What SIGTERM does with the programs: save them first, move them to --drain-to and save "
        "those that stay, or end them.",
        "checkpoint"),
    SettingRow("node", "drain-to", kinds.NodeAddresses(), "HOST:PORT",
        "A node that gets programs with --on-stop drain. Repeatable."),
    SettingRow("node", "stop-seconds", Seconds(), "SECONDS",
        "How long a stop may take.", 30.0),
    SettingRow("node", "output-limit", Size(), "SIZE",
        "Bytes of output that are kept of each program and stream.", "16M"),
    SettingRow("checkpoints", "every", Seconds(), "SECONDS",
        "Save each program so often."),
    SettingRow("checkpoints", "keep", Count(1), "N",
        "Checkpoints that are kept of each program.", 3),
    SettingRow("checkpoints", "store", OptionKind(), "FOLDER|URL",
        "Copy the newest checkpoint of each program to this store: a folder that other hosts "
        "reach, or s3://BUCKET/PREFIX."),
    SettingRow("ownership", "register", OptionKind(), "FILE|URL",
        "The register of programs with a lease (submit --lease): http://HOST:PORT is an etcd, "
        "several with commas; a FILE is for nodes of one host. Needs --checkpoints-store."),
    SettingRow("tls", "certificate", ReadableFile(), "FILE",
        "The certificate of this node; `wasmsr keys issue node` makes one."),
    SettingRow("tls", "key", ReadableFile(), "FILE", "Its private key."),
    SettingRow("tls", "authority", ReadableFile(), "FILE",
        "Certificates of the authorities that other nodes and clients may have."),
    SettingRow("tls", "revoked", ReadableFile(), "FILE",
        "The list of revoked certificates."),
    SettingRow("access", "token-file", ReadableFile(), "FILE",
        "Callers without a certificate must have the token in this file."),
    SettingRow("access", "insecure", Flag(), "",
        "Accept plain text from other machines. Anybody can then run programs here.", False),
    SettingRow("policy", "peers", kinds.PeerIds(), "ID",
        "Take programs from this node only. Repeatable."),
    SettingRow("policy", "clients", RepeatedText(), "NAME",
        "Take orders from this client only. Repeatable."),
    SettingRow("policy", "modules", kinds.Digests(), "SHA256",
        "Run this module only. Repeatable."),
    SettingRow("policy", "programs", Count(1), "N", "Most programs at once."),
    SettingRow("policy", "memory", Size(), "SIZE", "Most memory of one program."),
    SettingRow("policy", "total-memory", Size(), "SIZE", "Most memory of all programs."),
    SettingRow("policy", "carried", Size(), "SIZE", "Most bytes of files that a program carries."),
    SettingRow("policy", "per-minute", Count(1), "N", "Most programs a minute from one caller."),
    SettingRow("policy", "mounts", kinds.MountRules(), "FOLDER[:ro]",
        "Let programs use this folder, or what is in it. Repeatable."),
    SettingRow("policy", "tcp-listen", kinds.ListenRules(), "ADDR:PORT|ADDR:*",
        "Let programs accept connections there. Repeatable."),
    SettingRow("fleet", "mqtt", OptionKind(), "[ssl:]HOST[:PORT]",
        "Be a device of a fleet, at this broker of MQTT (extra `fleet`)."),
    SettingRow("fleet", "realm", OptionKind(), "NAME", "The realm of its topics.", None),
    SettingRow("fleet", "slots", Count(1), "N", "Modules that it runs at once.", 128),
    SettingRow("fleet", "name", OptionKind(), "NAME", "Its name. Default: that of the machine."),
    SettingRow("fleet", "files", Folder(), "FOLDER",
        "Where relative names of modules and folders begin. Default: the working directory."),
    SettingRow("log", "format", Choice("text", "json"), "text|json",
        "How events are logged, one a line.", "text"),
    SettingRow("log", "level", Choice("error", "warning", "notice", "info", "debug"), "LEVEL",
        "How much is logged.", "notice"),
)  # fmt: skip

BY_NAME = {row.name: row for row in ROWS}
"""Name: row."""
SECTIONS = tuple(dict.fromkeys(row.section for row in ROWS))
"""The tables of the file, in order."""
