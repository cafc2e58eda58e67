"""`wasmsr fleet cmd`, `put`, `get`, `alias`, `configure`: the devices themselves, over SSH."""

from __future__ import annotations

import json
import os
import platform as host
import shlex
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wasmsr.errors import EXIT_HOST, printable

if TYPE_CHECKING:
    from wasmsr.fleet.manifest import FleetDevice, FleetManifest
    from wasmsr.ssh.devices import DeviceResult

CMD = """Runs COMMAND on the devices of the manifest, over SSH, on many at once.

In COMMAND, {name} is the name of the device, {fullname} the one by which it is reached, and {arch}
its value in the column Arch of the manifest; a brace is written twice. COMMAND can be the name of a
command in the manifest: the line `# reboot: sudo reboot` there makes it `wasmsr fleet cmd reboot`.
The exit code is 0 if it is 0 on every device, otherwise 1.

\b
  wasmsr fleet cmd --manifest devices.tsv 'uname -m'
  wasmsr fleet cmd reboot --device attic --device kitchen
  wasmsr fleet cmd 'echo {name} is {model}' --dry-run"""

PUT = """Copies SOURCE, a file or a folder, to TARGET on the devices of the manifest.

\b
  wasmsr fleet put --manifest devices.tsv wasm /srv/wasm
  wasmsr fleet put app.aot.{arch} wasm/ --device attic --dry-run"""

GET = """Copies SOURCE, a file or a folder, from the devices of the manifest.

What comes from a device goes into a folder of its name below TARGET.

\b
  wasmsr fleet get --manifest devices.tsv /var/log/node.log logs
  wasmsr fleet get results . --device attic"""

ALIAS = """Prints shell functions: the name of each device is a command that opens a shell on it.

\b
  wasmsr fleet alias --manifest devices.tsv
  eval "$(wasmsr fleet alias)" """

CONFIGURE = """Writes config.json for the devices and tools of a fleet, with what this machine is.

Options that are not given are not in the file. The file of the password is named, and not read.

\b
  wasmsr fleet configure --out config.json --mqtt broker.lan --realm lab
  wasmsr fleet configure --manifest devices.tsv --domain .lan --username pi --dry-run"""


def _devices(command: Any) -> Any:
    """Give a command the options that say which devices it is about."""
    for one in reversed((
        click.option("--config", metavar="FILE",
                     type=click.Path(dir_okay=False, path_type=Path),
                     help="Read manifest, domain and username from this file (config.json)."),
        click.option("--manifest", metavar="FILE",
                     type=click.Path(dir_okay=False, path_type=Path),
                     help="The table of the devices."),
        click.option("--domain", metavar="TEXT", help="What follows the names of the devices."),
        click.option("--username", metavar="NAME", help="The user on the devices."),
        click.option("--device", "names", multiple=True, metavar="NAME",
                     help="Only this device. May be given several times."),
        click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
    )):  # fmt: skip
        command = one(command)
    return command


def _reached(command: Any) -> Any:
    """Give a command the options of SSH."""
    for one in reversed((
        click.option("--port", metavar="PORT", type=click.IntRange(1, 65535),
                     help="The port of SSH on the devices."),
        click.option("--key", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path),
                     help="A private key, in place of those that ssh would use."),
        click.option("--known-hosts", metavar="FILE",
                     type=click.Path(dir_okay=False, path_type=Path),
                     help="The keys of the devices, in place of those that ssh knows."),
        click.option("--at-once", metavar="N", type=click.IntRange(1, 1000), default=16,
                     show_default=True, help="So many devices at the same time."),
        click.option("--timeout", metavar="SECONDS", type=click.FloatRange(0.1),
                     help="For each device."),
        click.option("--ignore-errors", is_flag=True, help="The exit code is 0 in any case."),
        click.option("--json", "as_json", is_flag=True, help="Print one object a line."),
    )):  # fmt: skip
        command = one(command)
    return command


@click.command(help=CMD)
@_devices
@_reached
@click.argument("command")
def cmd(command: str, as_json: bool, dry_run: bool, **options: Any) -> int:
    """Carry out the command; CMD is its help text."""
    manifest, devices, user = _chosen(options)
    text = manifest.command(command)
    if dry_run:
        return _say_all(devices, lambda one: one.fill(text), as_json)
    from wasmsr.ssh.devices import run_commands

    lock = threading.Lock()

    def line(device: FleetDevice, stream: str, words: str) -> None:
        with lock:
            if as_json:
                _object(device=device.name, stream=stream, text=words)
            else:
                where = sys.stderr if stream == "err" else sys.stdout
                where.write(f"{device.name}: {printable(words, None)}\n")
                where.flush()

    return _report(run_commands(devices, text, _access(user, options), line), as_json, options)


@click.command(help=PUT)
@_devices
@_reached
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("target")
def put(source: Path, target: str, as_json: bool, dry_run: bool, **options: Any) -> int:
    """Carry out the command; PUT is its help text."""
    _, devices, user = _chosen(options)
    if dry_run:
        return _say_all(devices, lambda one: f"{source} -> {one.fill(target)}", as_json)
    from wasmsr.ssh.devices import put_files

    return _report(put_files(devices, source, target, _access(user, options)), as_json, options)


@click.command(help=GET)
@_devices
@_reached
@click.argument("source")
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
def get(source: str, target: Path, as_json: bool, dry_run: bool, **options: Any) -> int:
    """Carry out the command; GET is its help text."""
    _, devices, user = _chosen(options)
    if dry_run:
        return _say_all(devices, lambda one: f"{one.fill(source)} -> {target / one.name}", as_json)
    from wasmsr.ssh.devices import get_files

    return _report(get_files(devices, source, target, _access(user, options)), as_json, options)


@click.command(help=ALIAS)
@_devices
def alias(dry_run: bool, **options: Any) -> int:
    """Carry out the command; ALIAS is its help text."""
    _, devices, user = _chosen(options)
    for one in devices:
        name = "".join(char if char.isalnum() else "_" for char in one.name)
        if name[0].isdigit():
            name = f"_{name}"
        place = one.host if user is None else f"{user}@{one.host}"
        click.echo(f'{name}() {{ ssh {shlex.quote(place)} "$@"; }}')
    return 0


@click.command(help=CONFIGURE)
@click.option("-o", "--out", metavar="FILE", type=click.Path(path_type=Path),
              default=Path("config.json"), show_default=True, help="The file.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option("--mqtt", metavar="[ssl:]HOST[:PORT]", help="The broker.")
@click.option("--mqtt-username", metavar="NAME", help="The user at the broker.")
@click.option("--pwd", metavar="FILE", help="The file with the password there.")
@click.option("--realm", metavar="NAME", help="The realm of the topics.")
@click.option("--http", metavar="[HOST:]PORT", help="Where the orchestrator answers.")
@click.option("--manifest", metavar="FILE", help="The table of the devices.")
@click.option("--domain", metavar="TEXT", help="What follows the names of the devices.")
@click.option("--username", metavar="NAME", help="The user on the devices.")
@click.option("--dry-run", is_flag=True, help="Print it, and write nothing.")
def configure(out: Path, force: bool, dry_run: bool, mqtt: str | None, http: str | None,
              **texts: str | None) -> int:  # fmt: skip
    """Carry out the command; CONFIGURE is its help text."""
    from wasmsr import small_files
    from wasmsr.cli.fleet.fleet_options import settings_of
    from wasmsr.fleet.failures import FleetError

    found: dict[str, Any] = {name: value for name, value in texts.items() if value is not None}
    settings = settings_of(mqtt, None, texts["realm"], http)
    if mqtt is not None:
        address = settings.broker.address
        found |= {"mqtt": address.host, "mqtt_port": address.port, "use_ssl": settings.broker.tls}
    if http is not None:
        found |= {"http": settings.http.host, "http_port": settings.http.port}
    cores, pages = os.cpu_count() or 0, os.sysconf("SC_PHYS_PAGES")
    found["platform"] = {
        "cpu": {"arch": host.machine(), "cores": cores},
        "mem": {"total": pages * os.sysconf("SC_PAGE_SIZE")},
    }
    text = json.dumps(found, indent=2) + "\n"
    if dry_run:
        click.echo(text, nl=False)
        return 0
    try:
        (small_files.replace if force else small_files.create)(out, text.encode(), 0o644)
    except FileExistsError:
        raise FleetError(f"{out} is there", hint="--force replaces it") from None
    except OSError as error:
        raise FleetError(f"{out}: {error.strerror or error}") from error
    return 0


# ---- what several do -----------------------------------------------------------------------------


def _chosen(options: dict[str, Any]) -> tuple[FleetManifest, list[FleetDevice], str | None]:
    """Return the manifest, the devices that are meant, and the user there."""
    from wasmsr.fleet.failures import FleetError
    from wasmsr.fleet.manifest import read_manifest
    from wasmsr.fleet.settings import read_settings

    config = options["config"]
    kept = read_settings(config).cluster
    path = options["manifest"]
    if path is None and kept.manifest is not None:
        path = config.parent / kept.manifest
    if path is None:
        raise FleetError("no manifest is given", hint="--manifest FILE, or `manifest` in --config")
    domain = kept.domain if options["domain"] is None else options["domain"]
    manifest = read_manifest(path, domain)
    return manifest, manifest.chosen(options["names"]), options["username"] or kept.username


def _access(user: str | None, options: dict[str, Any]) -> Any:
    from wasmsr.ssh.devices import SshAccess

    names = ("port", "key", "known_hosts", "at_once", "timeout")
    return SshAccess(user, **{name: options[name] for name in names})


def _say_all(
    devices: Sequence[FleetDevice], what: Callable[[FleetDevice], str], as_json: bool
) -> int:
    for one in devices:
        if as_json:
            _object(device=one.name, would=what(one))
        else:
            click.echo(printable(f"{one.name}: {what(one)}", None))
    return 0


def _report(results: Sequence[DeviceResult], as_json: bool, options: dict[str, Any]) -> int:
    for one in results:
        if as_json:
            _object(device=one.device.name, code=one.code, message=one.sentence)
        elif one.code is None:
            click.echo(printable(f"{one.device.name}: {one.sentence}", None), err=True)
        elif one.code:
            click.echo(f"{one.device.name}: exit code {one.code}", err=True)
    good = options["ignore_errors"] or all(one.good for one in results)
    return 0 if good else EXIT_HOST


def _object(**values: Any) -> None:
    click.echo(json.dumps(values))


COMMANDS = (cmd, put, get, alias, configure)
