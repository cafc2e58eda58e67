"""Two hosts for `containers.py`, by docker compose, docker, podman or two network namespaces.

Each engine says what it lacks, makes ready what it needs, runs the two ends of `wasmsr remote`,
gives out the result and removes all that it made. Names are random: nothing of the user's is met.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parent.parent
FILES = ROOT / "examples" / "snapshot"
PUBLIC_BASE = "python:3-slim"
PORT = 7000
HOSTS = ("host-1", "host-2")
MEMORY = "1GiB"
"""The most that a host gives to a program."""
HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp")
"""What a container does without."""
LIMITS = ("--ulimit", "nofile=20000:20000")
"""Containers may fail to start with the engine's own, where limits cannot be raised."""
NOT_COPIED = (".git", ".venv", ".cache", "build", "dist", "*.egg-info", "*.so", "__pycache__")
VERSION = "import platform; print(platform.python_version())"
PULL_SECONDS = 120
STEP_SECONDS = 900
BEGIN_SECONDS = 60.0
SWEEPS = 60
"""Looks, half a second apart, at what an unfinished build has left."""


AnyEngine = TypeVar("AnyEngine", bound="Engine")


class Failed(Exception):
    """Something cannot be done here, in a sentence."""


_screen = threading.Lock()


def say(text: str, who: str = "containers") -> None:
    """One line with a name before it."""
    with _screen:
        print(f"{who:<10} | {text}", flush=True)


@dataclass
class Context:
    """What is to run.

    Attributes:
        folder: an empty folder to build from.
        keys: a folder with the certificates of each host; see `make_certificates`.
        base: the image to build on, or None.
        every: seconds that the program stays on a host.
        program: its module's file.
        arguments: what it is given.
        sample: its film.
        result: the name of what it makes.
    """

    folder: Path
    keys: Path
    base: str | None
    every: float
    program: Path
    arguments: list[str]
    sample: Path
    result: str


def make_certificates(folder: Path, addresses: Mapping[str, str], *, readable: bool) -> None:
    """Make an authority, and for each host what it needs of it.

    Args:
        folder: Each host gets a folder in it, with the files certificate, key, authority, revoked.
        addresses: The address of each host besides its name; empty where it has only the name.
        readable: Whether other users may read the files: those of a container. The folder is ours.
    """
    from wasmsr.node.security.authority import Authority

    authority = Authority.create(folder / "authority")
    for host in HOSTS:
        names = [host, addresses[host]] if host in addresses else [host]
        _, certificate, key = authority.issue("node", names, folder / host)
        certificate.rename(folder / host / "certificate")
        key.rename(folder / host / "key")
        shutil.copy(authority.folder / "authority.crt", folder / host / "authority")
        shutil.copy(authority.folder / "revoked.crl", folder / host / "revoked")
        if readable:
            for path in (folder / host).iterdir():
                path.chmod(0o444)
            (folder / host).chmod(0o755)


def choose(kinds: Sequence[type[AnyEngine]], name: str | None, context: Context) -> AnyEngine:
    """Return the first engine that answers and can be made ready, or the named one."""
    for kind in kinds:
        if name not in (None, kind.name):
            continue
        engine = kind(context)
        reason = engine.missing()
        if not reason:
            say(f"{kind.name}: getting ready")
            try:
                engine.prepare()
                return engine
            except Failed as error:
                reason = str(error)
                engine.remove()
            except BaseException:
                engine.remove()
                raise
        say(f"{kind.name}: {reason}")
    raise Failed("no engine can run the two hosts here")


def step(
    command: Sequence[str], seconds: float = STEP_SECONDS, env: Mapping[str, str] | None = None
) -> str:
    """Return what a command prints; raise Failed with its last line if it fails.

    An interrupt ends the command and what it has started.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=env,
            start_new_session=True,
        )
    except OSError as error:
        raise Failed(f"{command[0]}: {error}") from error
    try:
        output, _ = process.communicate(timeout=seconds)
    except BaseException as error:
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise Failed(f"{' '.join(command[:3])}: not done in {seconds:.0f} s") from error
        raise
    if process.returncode:
        lines = output.strip().splitlines() or [f"exit code {process.returncode}"]
        raise Failed(f"{' '.join(command[:3])}: {lines[-1]}")
    return output.strip()


def quietly(command: Sequence[str], env: Mapping[str, str] | None = None) -> bool:
    """Run a command of which only the success matters."""
    try:
        step(command, 60, env)
    except Failed:
        return False
    return True


class Followed:
    """A process whose lines are shown with a name before them, and kept."""

    def __init__(
        self, command: Sequence[str], who: str, cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Ctrl-C is for us, who end what runs here in order.
            start_new_session=True,
        )
        self._who = who
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            say(line.rstrip(), self._who)

    def wait(self, deadline: float) -> int:
        """Wait for the process and return its exit code."""
        try:
            code = self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise Failed(f"{self._who} has not finished in time") from None
        self._thread.join(5)
        return code

    def await_line(self, text: str) -> None:
        """Wait until a line with this text has come."""
        deadline = time.monotonic() + BEGIN_SECONDS
        while not any(text in line for line in self.lines):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{self._who} does not begin")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the process."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Engine:
    """What all have in common."""

    name = ""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.id = f"wasmsr-{secrets.token_hex(4)}"
        self.followed: list[Followed] = []

    def missing(self) -> str:
        """Why it cannot be used here; "" if it can."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Make everything but the hosts, or raise Failed."""

    def begin(self, host: str) -> Followed:
        """Start a host, the sender or the other one."""
        raise NotImplementedError

    def run(self, deadline: float) -> list[str]:
        """Run both hosts to the end of the program and return their lines, or raise Failed."""
        receiver = self.begin("host-2")
        self.followed.append(receiver)
        receiver.await_line("listening on")
        self.followed.append(self.begin("host-1"))
        codes = [one.wait(deadline) for one in self.followed]
        if any(codes):
            raise Failed(f"the hosts ended with the codes {codes}")
        return [line for one in self.followed for line in one.lines]

    def fetch(self, folder: Path) -> Path:
        """Copy the result into `folder` from the host where the program ended."""
        raise NotImplementedError

    def remove(self) -> None:
        """Remove everything that was made; print what could not be removed."""

    def ended(self) -> str:
        """Return the host where the program ended."""
        for host, followed in zip(reversed(HOSTS), self.followed, strict=False):
            if any("ended here with" in line for line in followed.lines):
                return host
        raise Failed("no host says that the program ended there")

    def words(
        self, host: str, address: str, peer: str, keys: str, out: str, film: str
    ) -> list[str]:
        """Return the arguments of `wasmsr` on a host; `keys` is its folder of certificates."""
        context = self.context
        words = ["remote", "--listen", address, "--port", str(PORT), "--peer", f"{peer}:{PORT}"]
        for name in ("certificate", "key", "authority", "revoked"):
            words += [f"--tls-{name}", f"{keys}/{name}"]
        words += ["--max-memory", MEMORY, "--every", f"{context.every:g}"]
        words += ["--dir", f"{out}::.::carry", "--dir", f"{film}::film::carry"]
        if host == "host-1":
            words += ["--send", "--program", self.program(), "--", *context.arguments]
        return words

    def program(self) -> str:
        """Return the name of the program."""
        return str(self.context.program)


class Containers(Engine):
    """Docker, or what has the same commands."""

    name = "docker"
    command: tuple[str, ...] = ("docker",)
    limits: tuple[str, ...] = LIMITS

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.image = f"{self.id}:latest"
        self.base = context.base or ""
        self._made: list[list[str]] = []
        """Commands that remove what was made, in the order of making; an empty one is `sweep`."""

    def missing(self) -> str:
        """Return what is missing for this engine, or an empty text."""
        if shutil.which(self.command[0]) is None:
            return "not installed"
        return "" if quietly([*self.command, "info"]) else "does not answer"

    def prepare(self) -> None:
        """Make everything but the hosts."""
        self.make_base()
        self.make_context()
        say(f"building the image on {self.base}")
        self.will_build()
        given = ["--build-arg", f"BASE={self.base}", "--build-arg", f"RUN={self.id}"]
        folder = str(self.context.folder)
        step(
            [
                *self.command,
                "build",
                "-q",
                "--force-rm",
                *self.limits,
                *given,
                "-t",
                self.image,
                folder,
            ]
        )
        self.make_network()

    def will_build(self) -> None:
        """Note an image that is about to be made, or what an unfinished build leaves."""
        self._made.append([])
        self._made.append([*self.command, "rmi", "-f", self.image])

    def sweep(self) -> None:
        """Remove what an unfinished build has left; the engine may still use it for a while."""
        label = f"label=wasmsr.run={self.id}"
        kinds = ((["ps"], ["rm", "-f", "-v"]), (["images"], ["rmi", "-f"]))
        quiet = 0
        for _ in range(SWEEPS):
            quiet += 1
            for listed, removal in kinds:
                with suppress(Failed):
                    found = step([*self.command, *listed, "-aq", "--filter", label], 60).split()
                    if found:
                        quiet = 0
                        quietly([*self.command, *removal, *found])
            if quiet > 2:
                return
            time.sleep(0.5)
        say(f"not removed: images with the {label}")

    def make_network(self) -> None:
        """Make the network between the hosts."""
        step([*self.command, "network", "create", self.id])
        self._made.append([*self.command, "network", "rm", self.id])

    def make_base(self) -> None:
        """Pull an image to build on, or make one."""
        if self.base:
            return
        here = quietly([*self.command, "image", "inspect", PUBLIC_BASE])
        if not here:
            say(f"pulling {PUBLIC_BASE}")
            try:
                step([*self.command, "pull", "-q", PUBLIC_BASE], PULL_SECONDS)
                self._made.append([*self.command, "rmi", PUBLIC_BASE])
                here = True
            except Failed as error:
                say(f"it cannot be pulled ({error})")
        self.base = PUBLIC_BASE if here else self.debian()

    def debian(self) -> str:
        """Make a base image of Debian's packages, or raise Failed."""
        if shutil.which("debootstrap") is None or os.geteuid() != 0:
            raise Failed("without images from a registry it needs debootstrap, and root to use it")
        say("making a Debian image by debootstrap, which takes a minute or two")
        root = self.context.folder.parent / "root"
        packages = "python3,python3-venv,python3-pip,iproute2"
        try:
            step(
                ["debootstrap", "--variant=minbase", f"--include={packages}", release(), str(root)]
            )
            tag = f"{self.id}-base:latest"
            self._made.append([*self.command, "rmi", "-f", tag])
            packed = self.context.folder.parent / "root.tar"
            step(["tar", "-C", str(root), "-cf", str(packed), "."])
            step([*self.command, "import", str(packed), tag])
            packed.unlink()
        finally:
            for one in ("proc", "sys", "dev"):
                if os.path.ismount(root / one):
                    quietly(["umount", str(root / one)])
            quietly(["rm", "-rf", "--one-file-system", str(root)])
        return tag

    def make_context(self) -> None:
        """Make the folder to build from: wheels for the base's Python, the program and its film."""
        folder = self.context.folder
        shutil.copy(FILES / "Dockerfile", folder)
        (folder / "programs").mkdir(exist_ok=True)
        shutil.copy(self.context.sample, folder / "programs" / "sample.y4m")
        shutil.copy(self.context.program, folder / "programs")
        ask = ["--entrypoint", "python3", self.base, "-c", VERSION]
        said = step([*self.command, "run", "--rm", *self.limits, *ask])
        version = ".".join(said.splitlines()[-1].split()[0].split(".")[:2])
        say(f"collecting wheels for Python {version}")
        wheels = folder / "wheels"
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
        source = folder / "source"
        shutil.copytree(ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(*NOT_COPIED))
        step([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(source)])
        shutil.rmtree(source)
        (wheel,) = wheels.glob("wasmsr-*.whl")
        ours = ".".join(map(str, sys.version_info[:2]))
        foreign = [] if version == ours else [
            "--only-binary=:all:", "--python-version", version,
            "--platform", f"manylinux2014_{os.uname().machine}",
            "--platform", f"manylinux_2_28_{os.uname().machine}",
            "--platform", f"linux_{os.uname().machine}",
        ]  # fmt: skip
        found = ["-d", str(wheels), "--find-links", str(wheels), f"{wheel}[trust]"]
        step([*pip, "download", *foreign, *found])

    def begin(self, host: str) -> Followed:
        """Start a host."""
        (other,) = set(HOSTS) - {host}
        name = f"{self.id}-{host}"
        words = self.words(host, "0.0.0.0", other, "/run/secrets", "/data/out", "/data/film")
        create = [*self.command, "create", "--name", name, "--hostname", host, *HARDENED]
        create += [*self.limits, "-v", f"{self.context.keys / host}:/run/secrets:ro", "-v", "/data"]
        create += self.network(host)
        step([*create, self.image, *words])
        self._made.append([*self.command, "rm", "-f", "-v", name])
        return Followed([*self.command, "start", "-a", name], host)

    def network(self, host: str) -> list[str]:
        """Return the options that join a host to the network."""
        return ["--network", self.id, "--network-alias", host]

    def program(self) -> str:
        """Return the name of the program."""
        return f"/programs/{self.context.program.name}"

    def fetch(self, folder: Path) -> Path:
        """Copy the result into a folder and return its path."""
        name = f"{self.id}-{self.ended()}"
        source = f"{name}:/data/out/{self.context.result}"
        step([*self.command, "cp", source, str(folder / "moved")])
        return folder / "moved"

    def remove(self) -> None:
        """Remove everything that was made."""
        for followed in self.followed:
            followed.stop()
        while self._made:
            command = self._made.pop()
            if not command:
                self.sweep()
            elif not quietly(command):
                say(f"not removed: {' '.join(command)}")


class Podman(Containers):
    """Podman, whose networks give names to addresses only with a plugin: so we do."""

    name = "podman"
    command: tuple[str, ...] = ("podman",)
    limits = (*LIMITS, "--ulimit", "nproc=20000:20000")
    SUBNET = "10.213.77"

    def missing(self) -> str:
        """Return what is missing for this engine, or an empty text."""
        if shutil.which("crun") is None and shutil.which("runc") is not None:
            self.command = ("podman", "--runtime", shutil.which("runc") or "runc")
        return super().missing()

    def make_network(self) -> None:
        """Make the network between the hosts."""
        step([*self.command, "network", "create", "--subnet", f"{self.SUBNET}.0/24", self.id])
        self._made.append([*self.command, "network", "rm", "-f", self.id])

    def network(self, host: str) -> list[str]:
        """Return the options that join a host to the network."""
        numbers = {name: f"{self.SUBNET}.{10 + place}" for place, name in enumerate(HOSTS)}
        known = [word for name in HOSTS for word in ("--add-host", f"{name}:{numbers[name]}")]
        return ["--network", self.id, "--ip", numbers[host], *known]


class Compose(Containers):
    """Docker with docker-compose.yml."""

    name = "docker compose"
    compose: tuple[str, ...] = ()

    def missing(self) -> str:
        """Return what is missing for this engine, or an empty text."""
        reason = super().missing()
        if reason:
            return reason
        for words in (("docker", "compose"), ("docker-compose",)):
            if shutil.which(words[0]) and quietly([*words, "version"]):
                self.compose = words
                return ""
        return "not installed"

    def prepare(self) -> None:
        """Make everything but the hosts."""
        self.make_base()
        self.make_context()
        shutil.copy(FILES / "docker-compose.yml", self.context.folder)
        say(f"building the image on {self.base}")
        self.will_build()
        self._made.append([*self.line(), "down", "-v", "--remove-orphans", "-t", "5"])
        step([*self.line(), "build", "-q", "--force-rm"], env=self.variables())

    def line(self) -> list[str]:
        """Return the command line of the engine."""
        file = self.context.folder / "docker-compose.yml"
        return [*self.compose, "-p", self.id, "-f", str(file)]

    def variables(self) -> dict[str, str]:
        """Return the environment of the engine."""
        context = self.context
        return {
            **os.environ,
            "CONTEXT": str(context.folder),
            "BASE": self.base,
            "RUN": self.id,
            "KEYS": str(context.keys),
            "IMAGE": self.image,
            "EVERY": f"{context.every:g}",
            "PROGRAM": self.program(),
            "ARGS": " ".join(context.arguments),
        }

    def run(self, deadline: float) -> list[str]:
        """Run both hosts to the end of the program."""
        step([*self.line(), "up", "-d", "--no-build"], env=self.variables())
        for host in reversed(HOSTS):
            log = [*self.command, "logs", "-f", self.container(host)]
            self.followed.append(Followed(log, host))
        for one in self.followed:
            one.wait(deadline)
        codes = [step([*self.command, "wait", self.container(host)], 60) for host in HOSTS]
        if set(codes) != {"0"}:
            raise Failed(f"the hosts ended with the codes {', '.join(codes)}")
        return [line for one in self.followed for line in one.lines]

    def container(self, host: str) -> str:
        """Return the id of a host's container."""
        label = "label=com.docker.compose"
        which = ["--filter", f"{label}.project={self.id}", "--filter", f"{label}.service={host}"]
        found = step([*self.command, "ps", "-aq", *which])
        if len(found.split()) != 1:
            raise Failed(f"there is no container of {host}")
        return found

    def fetch(self, folder: Path) -> Path:
        """Copy the result into a folder and return its path."""
        source = f"{self.container(self.ended())}:/data/out/{self.context.result}"
        step([*self.command, "cp", source, str(folder / "moved")])
        return folder / "moved"

    def remove(self) -> None:
        """Remove everything that was made."""
        os.environ.update(self.variables())  # `down` reads the file again
        super().remove()


class Namespaces(Engine):
    """Two network namespaces with a cable between them, and folders of their own."""

    name = "namespaces"
    SUBNET = "10.213.78"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        short = self.id[-8:]
        self.spaces = {host: f"{self.id}-{host[-1]}" for host in HOSTS}
        self.cables = {host: f"w{short}{host[-1]}" for host in HOSTS}
        self.addresses = {host: f"{self.SUBNET}.{host[-1]}" for host in HOSTS}
        self.folders = {host: context.folder / host for host in HOSTS}

    def missing(self) -> str:
        """Return what is missing for this engine, or an empty text."""
        if shutil.which("ip") is None:
            return "ip is not installed (iproute2)"
        if os.geteuid() != 0:
            return "they need root: sudo make containers"
        name = f"{self.id}-try"
        if not quietly(["ip", "netns", "add", name]):
            return "this machine does not let us make any"
        quietly(["ip", "netns", "delete", name])
        return ""

    def prepare(self) -> None:
        """Make everything but the hosts."""
        for host in HOSTS:
            step(["ip", "netns", "add", self.spaces[host]])
        one, two = HOSTS
        step(["ip", "-n", self.spaces[one], "link", "add", self.cables[one], "type", "veth",
              "peer", "name", self.cables[two], "netns", self.spaces[two]])  # fmt: skip
        for host in HOSTS:
            inside = ["ip", "-n", self.spaces[host]]
            step(
                [*inside, "address", "add", f"{self.addresses[host]}/24", "dev", self.cables[host]]
            )
            step([*inside, "link", "set", self.cables[host], "up"])
            step([*inside, "link", "set", "lo", "up"])
            for name in ("film", "out", "state"):
                (self.folders[host] / name).mkdir(parents=True)
            shutil.copy(self.context.sample, self.folders[host] / "film" / "sample.y4m")

    def begin(self, host: str) -> Followed:
        """Start a host."""
        (other,) = set(HOSTS) - {host}
        words = self.words(
            host, self.addresses[host], self.addresses[other], str(self.context.keys / host),
            "out", "film",
        )  # fmt: skip
        inside = ["ip", "netns", "exec", self.spaces[host], sys.executable, "-m", "wasmsr"]
        state = ["--state-dir", str(self.folders[host] / "state")]
        command = [*inside, words[0], *state, *words[1:]]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        return Followed(command, host, self.folders[host], env)

    def fetch(self, folder: Path) -> Path:
        """Copy the result into a folder and return its path."""
        return self.folders[self.ended()] / "out" / self.context.result

    def remove(self) -> None:
        """Remove everything that was made."""
        for followed in self.followed:
            followed.stop()
        known = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
        for space in self.spaces.values():
            if space in known and not quietly(["ip", "netns", "delete", space]):
                say(f"not removed: network namespace {space}")


def release() -> str:
    """Return the Debian release for an image: this machine's, or the one that was tried."""
    values = {}
    try:
        for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition("=")
            values[name] = value.strip('"')
    except OSError:
        pass
    return (
        values.get("VERSION_CODENAME", "bookworm") if values.get("ID") == "debian" else "bookworm"
    )


ENGINES: tuple[type[Engine], ...] = (Compose, Containers, Podman, Namespaces)
"""In the order in which they are asked."""
