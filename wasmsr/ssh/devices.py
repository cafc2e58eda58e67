"""Runs commands on many devices at once, and copies files to and from them.

Keys, agents and known hosts are those of OpenSSH: `~/.ssh/config` is read. A device whose key is
not known is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wasmsr.errors import MissingPackageError
from wasmsr.fleet.manifest import FleetDevice

try:
    import asyncssh
except ImportError as missing:
    raise MissingPackageError(
        "asyncssh", "commands for the devices of a fleet", extra="fleet"
    ) from missing

AT_ONCE: Final = 16
"""Devices at the same time."""
CONNECT_SECONDS: Final = 15.0
LONGEST: Final = 1 << 16
"""Characters of one line; a longer one is cut into several."""

Line = Callable[[FleetDevice, str, str], None]
"""Takes what a device wrote: the device, `out` or `err`, and one line."""


@dataclass(frozen=True)
class SshAccess:
    """How devices are reached.

    Attributes:
        user: The name of the user there, or None for that of `~/.ssh/config`.
        port: The port, or None.
        key: The file of a private key, or None for those that OpenSSH would use.
        known_hosts: The file of known hosts, or None for that of OpenSSH.
        at_once: Devices at the same time.
        timeout: Seconds for each device, or None.
    """

    user: str | None = None
    port: int | None = None
    key: Path | None = None
    known_hosts: Path | None = None
    at_once: int = AT_ONCE
    timeout: float | None = None


@dataclass(frozen=True)
class DeviceResult:
    """What became of one device.

    Attributes:
        device: The device.
        code: The exit code of its command, or 0; None if it could not be done.
        sentence: Why not, or "".
    """

    device: FleetDevice
    code: int | None
    sentence: str = ""

    @property
    def good(self) -> bool:
        """Whether all went well."""
        return self.code == 0


def run_commands(
    devices: Sequence[FleetDevice], command: str, access: SshAccess, line: Line
) -> list[DeviceResult]:
    """Run a command on devices; its fields are filled for each.

    Args:
        devices: The devices.
        command: For their shell; it gets no input.
        access: How they are reached.
        line: Takes each line that they write.

    Returns:
        One result for each device, in the order of the devices.

    Raises:
        FleetError: The command has an unknown field.
    """
    filled = {one.name: one.fill(command) for one in devices}

    async def run(device: FleetDevice, connection: Any) -> int:
        process = await connection.create_process(
            filled[device.name], stdin=asyncssh.DEVNULL, encoding="utf-8", errors="replace"
        )
        await asyncio.gather(
            _each_line(process.stdout, lambda text: line(device, "out", text)),
            _each_line(process.stderr, lambda text: line(device, "err", text)),
        )
        await process.wait_closed()
        return int(process.returncode)

    return _everywhere(devices, access, run)


def put_files(
    devices: Sequence[FleetDevice], source: Path, target: str, access: SshAccess
) -> list[DeviceResult]:
    """Copy a file or a folder to devices; the fields of the target are filled for each.

    Raises:
        FleetError: The target has an unknown field.
    """
    filled = {one.name: one.fill(target) for one in devices}

    async def put(device: FleetDevice, connection: Any) -> int:
        async with connection.start_sftp_client() as client:
            await client.put(str(source), filled[device.name], preserve=True, recurse=True)
        return 0

    return _everywhere(devices, access, put)


def get_files(
    devices: Sequence[FleetDevice], source: str, folder: Path, access: SshAccess
) -> list[DeviceResult]:
    """Copy a file or a folder from devices, each into a folder of its name.

    Raises:
        FleetError: The source has an unknown field.
    """
    filled = {one.name: one.fill(source) for one in devices}

    async def get(device: FleetDevice, connection: Any) -> int:
        place = folder / device.name
        place.mkdir(parents=True, exist_ok=True)
        async with connection.start_sftp_client() as client:
            await client.get(filled[device.name], str(place), preserve=True, recurse=True)
        return 0

    return _everywhere(devices, access, get)


def _everywhere(
    devices: Sequence[FleetDevice],
    access: SshAccess,
    act: Callable[[FleetDevice, Any], Awaitable[int]],
) -> list[DeviceResult]:
    async def all_of_them() -> list[DeviceResult]:
        places = asyncio.Semaphore(access.at_once)

        async def one(device: FleetDevice) -> DeviceResult:
            async with places:
                return await _reach(device, access, act)

        return list(await asyncio.gather(*map(one, devices)))

    return asyncio.run(all_of_them())


async def _reach(
    device: FleetDevice, access: SshAccess, act: Callable[[FleetDevice, Any], Awaitable[int]]
) -> DeviceResult:
    given: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, "keepalive_interval": 15}
    for name, value in (("username", access.user), ("port", access.port)):
        if value is not None:
            given[name] = value
    if access.key is not None:
        given["client_keys"] = [str(access.key)]
    if access.known_hosts is not None:
        given["known_hosts"] = str(access.known_hosts)

    async def connected() -> int:
        connection = await asyncssh.connect(device.host, **given)
        try:
            return await act(device, connection)
        except asyncio.CancelledError:
            connection.abort()  # `close` would wait for what runs there
            raise
        finally:
            connection.close()

    try:
        return DeviceResult(device, await asyncio.wait_for(connected(), access.timeout))
    except asyncio.TimeoutError:
        return DeviceResult(device, None, f"it took more than {access.timeout:g} s")
    except asyncssh.HostKeyNotVerifiable:
        sentence = "its host key is not among the known hosts: connect once with ssh"
        return DeviceResult(device, None, sentence)
    except (OSError, ValueError, asyncssh.Error) as error:
        words = getattr(error, "reason", "") or getattr(error, "strerror", "") or str(error)
        return DeviceResult(device, None, str(words) or type(error).__name__)


async def _each_line(stream: Any, take: Callable[[str], None]) -> None:
    """Give each line of a stream, also one that has no end yet when it is very long."""
    rest = ""
    while True:
        text = await stream.read(LONGEST)
        if not text:
            break
        *lines, rest = (rest + text).split("\n")
        for one in lines:
            take(one)
        while len(rest) > LONGEST:
            take(rest[:LONGEST])
            rest = rest[LONGEST:]
    if rest:
        take(rest)
