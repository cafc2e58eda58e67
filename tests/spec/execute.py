"""Runs scripts against an engine and counts: commands of `script` in, verdicts out.

Every assertion ends in exactly one verdict. It is *skipped* only where its module, or one that
this depends on, needs a listed feature that the engine says it lacks, and where Wasmtime, with
that one feature switched off, objects to it too. It is the *converter's* where a text that
must be refused is refused by the assembler already, so that nothing reaches the engine.

`runner` is the command line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from wasmsr.errors import (
    InvalidError,
    LinkError,
    MalformedError,
    Trap,
    UnsupportedError,
)

from . import oracle
from .convert import Refused, to_binary
from .engine import FEATURES, NoSuchExport, Session, UncaughtException
from .script import (
    Action,
    AssertException,
    AssertExhaustion,
    AssertModule,
    AssertReturn,
    AssertSuspension,
    AssertTrap,
    Command,
    Get,
    InstanceCommand,
    Invoke,
    ModuleCommand,
    Perform,
    Register,
    Script,
    Source,
)
from .values import Value, all_match

NO_CONVERTER = "text"
"""The reason of what is skipped because no assembler at hand takes a module's text."""


@dataclass(frozen=True)
class Failure:
    """An assertion, or another command, that did not end as it must."""

    script: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.script}.wast:{self.line}: {self.message}"


@dataclass
class Tally:
    """What came of one script. `assertions` counts `assert_…` commands by verdict, `commands` the
    others (modules, registrations, actions); `skipped` counts skipped assertions by feature."""

    script: str
    assertions: Counter[str] = field(default_factory=Counter)
    commands: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    printed: int = 0
    seconds: float = 0.0


class Skip(Exception):
    """The command depends on `feature`."""

    def __init__(self, feature: str) -> None:
        super().__init__(feature)
        self.feature = feature


class Wrong(Exception):
    """The command ended otherwise than it must; the text says how."""


class ConvertersVerdict(Exception):
    """The assembler refused a text that must be refused."""


@dataclass(frozen=True)
class Absent:
    """Stands where a module or an instance would stand, and raises what kept it from being."""

    cause: Skip | Wrong

    def again(self) -> Exception:
        if isinstance(self.cause, Skip):
            return self.cause
        return Wrong(f"depends on what failed before: {self.cause}")


class Runner:
    """Runs one script in one session.

    Attributes:
        tally: the verdicts so far.
    """

    def __init__(self, script: Script, session: Session) -> None:
        self.script = script
        self.session = session
        self.tally = Tally(script.name)
        self._registered: dict[str, int | Absent] = {}
        # By name, and the latest under None.
        self._modules: dict[str | None, Any] = {}
        self._instances: dict[str | None, int | Absent] = {}
        # Instances whose memory, table or globals a skipped module would have written, and the
        # feature that it was skipped for.
        self._unwritten: dict[int, str] = {}

    def run(self) -> Tally:
        """Run all commands; failures are collected, not raised.

        Raises:
            ScriptError: the script itself is broken.
        """
        for command in self.script.commands():
            self._one(command)
        self.tally.printed = len(self.session.printed)
        return self.tally

    def _one(self, command: Command) -> None:
        is_assertion = type(command).__name__.startswith("Assert")
        counter = self.tally.assertions if is_assertion else self.tally.commands
        try:
            self._handlers[type(command)](self, command)
        except Skip as skip:
            counter["skipped"] += 1
            if is_assertion:
                self.tally.skipped[skip.feature] += 1
        except ConvertersVerdict:
            counter["converter"] += 1
        except Exception as error:  # noqa: BLE001 - whatever an engine does wrong is a failure
            counter["failed"] += 1
            message = str(error) if isinstance(error, Wrong) else f"{_name(error)}: {error}"
            self.tally.failures.append(Failure(self.script.name, command.line, message))
        else:
            counter["passed"] += 1

    # Modules and instances.

    def _decode(self, source: Source) -> Any:
        """The decoded module of a source that the engine must accept, or at least know.

        Raises:
            Refused, MalformedError, InvalidError: as they say.
            Skip: the engine lacks a feature that the module needs.
        """
        binary = to_binary(source)
        try:
            return self.session.decode(binary)
        except UnsupportedError as error:
            if error.feature not in FEATURES:
                raise Wrong(f"skipped for {error.feature!r}, which is not listed") from error
            if not oracle.needs(binary, error.feature):
                message = f"skipped for {error.feature!r}, which the module does not need"
                raise Wrong(message) from error
            self._note_unwritten(binary, error.feature)
            raise Skip(error.feature) from error

    def _note_unwritten(self, binary: bytes, feature: str) -> None:
        if not any(name.encode() in binary for name in self._registered):
            return
        for name in oracle.imports_state(binary):
            instance = self._registered.get(name)
            if isinstance(instance, int):
                self._unwritten[instance] = feature

    def _instantiate(self, module: Any) -> int:
        registered = {}
        for name in self.session.import_names(module):
            if name == "spectest":
                registered[name] = self.session.spectest
                continue
            instance = self._registered.get(name)
            if isinstance(instance, Absent):
                raise instance.again()
            if instance is not None:
                registered[name] = instance
        return self.session.instantiate(module, registered)

    def _attempt(self, make: Callable[[], Any]) -> tuple[Any, Skip | Wrong | None]:
        """What `make` returns, or what stands in its place and why."""
        try:
            return make(), None
        except Skip as skip:
            return Absent(skip), skip
        except Refused as refused:
            # Which text the assemblers at hand take says nothing about the engine.
            cause = Skip(NO_CONVERTER)
            cause.__cause__ = refused
            return Absent(cause), cause
        except Exception as error:  # noqa: BLE001 - whatever an engine does wrong is a failure
            message = str(error) if isinstance(error, Wrong) else f"{_name(error)}: {error}"
            wrong = Wrong(message)
            return Absent(wrong), wrong

    def _module(self, command: ModuleCommand) -> None:
        module, error = self._attempt(lambda: self._decode(command.source))
        self._modules[None] = self._modules[command.name] = module
        if command.definition_only:
            if error is not None:
                raise error
            return
        self._add_instance(command.name, module)

    def _instance(self, command: InstanceCommand) -> None:
        if command.definition not in self._modules:
            raise Wrong(f"no definition {command.definition}")
        self._add_instance(command.name, self._modules[command.definition])

    def _add_instance(self, name: str | None, module: Any) -> None:
        instance: Any = module
        error: Skip | Wrong | None
        if isinstance(module, Absent):
            error = module.cause
        else:
            instance, error = self._attempt(lambda: self._instantiate(module))
        self._instances[None] = self._instances[name] = instance
        if error is not None:
            raise error

    def _find(self, name: str | None) -> int:
        if name not in self._instances:
            raise Wrong(f"no module {name or 'yet'}")
        instance = self._instances[name]
        if isinstance(instance, Absent):
            raise instance.again()
        if instance in self._unwritten:
            raise Skip(self._unwritten[instance])
        return instance

    def _register(self, command: Register) -> None:
        if command.module not in self._instances:
            raise Wrong(f"no module {command.module or 'yet'}")
        instance = self._instances[command.module]
        self._registered[command.as_name] = instance
        if isinstance(instance, Absent):
            raise instance.again()

    # Actions and assertions.

    def _act(self, action: Action) -> list[Value]:
        instance = self._find(action.module)
        if isinstance(action, Get):
            return [self.session.get(instance, action.field)]
        assert isinstance(action, Invoke)
        return self.session.invoke(instance, action.field, action.args)

    def _perform(self, command: Perform) -> None:
        self._act(command.action)

    def _assert_return(self, command: AssertReturn) -> None:
        actual = self._act(command.action)
        if not all_match(command.expected, actual):
            raise Wrong(f"expected {_list(command.expected)}, got {_list(actual)}")

    def _expect_trap(self, run: Callable[[], Any], message: str) -> None:
        try:
            outcome = run()
        except Trap as trap:
            if not self.session.is_trap(trap.code, message):
                raise Wrong(f"expected trap {message!r}, got {trap.code!r}") from trap
            return
        raise Wrong(f"expected trap {message!r}, but it ended with {outcome}")

    def _assert_trap(self, command: AssertTrap) -> None:
        subject = command.subject
        if isinstance(subject, Source):
            module = self._decode_or_skip(subject)
            self._expect_trap(lambda: self._instantiate(module), command.message)
        else:
            self._expect_trap(lambda: self._act(subject), command.message)

    def _decode_or_skip(self, source: Source) -> Any:
        try:
            return self._decode(source)
        except Refused as refused:
            raise Skip(NO_CONVERTER) from refused

    def _assert_exhaustion(self, command: AssertExhaustion) -> None:
        self._expect_trap(lambda: self._act(command.action), command.message)

    def _assert_exception(self, command: AssertException) -> None:
        try:
            outcome = self._act(command.action)
        except UncaughtException:
            return
        raise Wrong(f"expected an exception, but it ended with {_list(outcome)}")

    def _assert_suspension(self, command: AssertSuspension) -> None:
        # No script of the specification uses it yet; one that does must not pass unnoticed.
        raise Wrong("assert_suspension is not known to this runner")

    def _assert_module(self, command: AssertModule) -> None:
        source = command.source
        if command.kind == "unlinkable":
            module = self._decode_or_skip(source)
            try:
                self._instantiate(module)
            except LinkError:
                return
            raise Wrong(f"expected a link error, {command.message!r}")
        accepted: tuple[type[Exception], ...]
        if source.kind == "quote" or not self.session.tells_malformed:
            # Which of the two a text becomes is for the assembler to say.
            accepted = (MalformedError, InvalidError)
        else:
            accepted = (MalformedError if command.kind == "malformed" else InvalidError,)
        try:
            self._decode(source)
        except accepted:
            return
        except Refused as refused:
            if source.kind == "quote":
                raise ConvertersVerdict from refused
            raise Skip(NO_CONVERTER) from refused
        except (MalformedError, InvalidError) as error:
            message = f"expected the module to be {command.kind}, {command.message!r}"
            raise Wrong(f"{message}; got {_name(error)}: {error}") from error
        raise Wrong(f"accepted a module that is {command.kind}: {command.message!r}")

    _handlers: ClassVar[dict[type[Any], Callable[[Runner, Any], None]]] = {
        ModuleCommand: _module,
        InstanceCommand: _instance,
        Register: _register,
        Perform: _perform,
        AssertReturn: _assert_return,
        AssertTrap: _assert_trap,
        AssertExhaustion: _assert_exhaustion,
        AssertException: _assert_exception,
        AssertSuspension: _assert_suspension,
        AssertModule: _assert_module,
    }


def _name(error: Exception) -> str:
    return "no such export" if isinstance(error, NoSuchExport) else type(error).__name__


def _list(items: Any) -> str:
    return "[" + ", ".join(map(str, items)) + "]"
