"""A script's commands (the reference interpreter's script language, WebAssembly/spec
interpreter/README.md): forms of `sexpr` in, commands for `runner` out.

Modules stay sources here: `(module binary …)` is bytes, everything else is text for `convert`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .sexpr import Form, ScriptError, parse
from .values import Pattern, Value, constant, pattern


@dataclass(frozen=True)
class Source:
    """A module as a script holds it. `kind` is "binary" (`data` is the module), "text" (a slice
    of the script) or "quote" (text put together from string literals; it may be no UTF-8)."""

    kind: str
    data: bytes


@dataclass(frozen=True)
class Invoke:
    """Call an export of the module named `module`, or of the latest where that is None."""

    module: str | None
    field: str
    args: tuple[Value, ...]


@dataclass(frozen=True)
class Get:
    """Read an exported global."""

    module: str | None
    field: str


Action = Invoke | Get


@dataclass(frozen=True)
class ModuleCommand:
    """Define a module and, unless `definition_only`, instantiate it under the same name."""

    line: int
    name: str | None
    source: Source
    definition_only: bool = False


@dataclass(frozen=True)
class InstanceCommand:
    """Instantiate the definition called `definition`, or the latest, as `name`."""

    line: int
    name: str | None
    definition: str | None


@dataclass(frozen=True)
class Register:
    """Let later modules import from `module` under the name `as_name`."""

    line: int
    as_name: str
    module: str | None


@dataclass(frozen=True)
class Perform:
    """An action on its own; it must end without a trap, its results do not matter."""

    line: int
    action: Action


@dataclass(frozen=True)
class AssertReturn:
    line: int
    action: Action
    expected: tuple[Pattern, ...]


@dataclass(frozen=True)
class AssertTrap:
    """The action, or the instantiation of the module, traps with a message that begins so."""

    line: int
    subject: Action | Source
    message: str


@dataclass(frozen=True)
class AssertExhaustion:
    line: int
    action: Action
    message: str


@dataclass(frozen=True)
class AssertException:
    """The action ends in a WebAssembly exception that nobody catches."""

    line: int
    action: Action


@dataclass(frozen=True)
class AssertSuspension:
    """The action ends in a suspension that nobody handles (stack switching proposal)."""

    line: int
    action: Action
    message: str


@dataclass(frozen=True)
class AssertModule:
    """A module is refused; `kind` is "malformed", "invalid" or "unlinkable"."""

    line: int
    kind: str
    source: Source
    message: str


Command = (
    ModuleCommand
    | InstanceCommand
    | Register
    | Perform
    | AssertReturn
    | AssertTrap
    | AssertExhaustion
    | AssertException
    | AssertSuspension
    | AssertModule
)

# What a module's fields begin with. A script may hold the fields of its only module without the
# `(module …)` around them (section 6.6.13).
_FIELDS = frozenset(
    [
        "type",
        "rec",
        "import",
        "func",
        "table",
        "memory",
        "global",
        "export",
        "start",
        "elem",
        "data",
        "tag",
    ]
)


class Script:
    """One script: its name (the file's stem, with "legacy/" before it where it stands there),
    its text, and its commands."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    @classmethod
    def read(cls, path: Path, name: str) -> Script:
        """Read a script; line ends stay as they are, since strings and comments may hold any."""
        return cls(name, path.read_bytes().decode())

    def commands(self) -> Iterator[Command]:
        """Yield the commands in order.

        Raises:
            ScriptError: the text is no script.
        """
        fields: list[Form] = []
        for form in parse(self.text):
            if form.head in _FIELDS:
                fields.append(form)
            else:
                yield self._command(form)
        if fields:
            inner = "\n".join(self.text[form.start : form.end] for form in fields)
            source = Source("text", f"(module {inner})".encode())
            yield ModuleCommand(fields[0].line, None, source)

    def _command(self, form: Form) -> Command:
        line, head = form.line, form.head
        if head == "module":
            return self._module(form)
        if head == "register":
            name = _bytes(form, 1).decode()
            return Register(line, name, _name(form, 2)[0])
        if head in ("invoke", "get"):
            return Perform(line, _action(form))
        if head == "assert_return":
            expected = tuple(pattern(item) for item in form.items[2:])
            return AssertReturn(line, _action(_form(form, 1)), expected)
        if head == "assert_exception":
            return AssertException(line, _action(_form(form, 1)))
        subject, message = _form(form, 1), _bytes(form, 2).decode()
        if head == "assert_trap":
            if subject.head == "module":
                return AssertTrap(line, self._source(subject)[1], message)
            return AssertTrap(line, _action(subject), message)
        if head == "assert_exhaustion":
            return AssertExhaustion(line, _action(subject), message)
        if head == "assert_suspension":
            return AssertSuspension(line, _action(subject), message)
        if head in ("assert_malformed", "assert_invalid", "assert_unlinkable"):
            kind = head.removeprefix("assert_")
            return AssertModule(line, kind, self._source(subject)[1], message)
        raise ScriptError(f"unknown command {head!r}", line)

    def _module(self, form: Form) -> Command:
        if len(form.items) > 1 and form.items[1] == "instance":
            name, at = _name(form, 2)
            return InstanceCommand(form.line, name, _name(form, at)[0])
        name, source = self._source(form)
        definition_only = len(form.items) > 1 and form.items[1] == "definition"
        return ModuleCommand(form.line, name, source, definition_only)

    def _source(self, form: Form) -> tuple[str | None, Source]:
        """The name and the source of `(module definition? $name? …)`."""
        at = 2 if len(form.items) > 1 and form.items[1] == "definition" else 1
        name, after = _name(form, at)
        kind = form.items[after] if after < len(form.items) else None
        if kind in ("binary", "quote"):
            pieces = [_bytes(form, index) for index in range(after + 1, len(form.items))]
            data = b"".join(pieces) if kind == "binary" else b" ".join(pieces)
            return name, Source(str(kind), data)
        text = self.text[form.start : form.end]
        if at == 2:
            # The text format knows no `definition`; only the first one is the keyword.
            text = text.replace("definition", "", 1)
        return name, Source("text", text.encode())


def _form(form: Form, index: int) -> Form:
    item = form.items[index] if index < len(form.items) else None
    if not isinstance(item, Form):
        raise ScriptError(f"{form.head} lacks a list", form.line)
    return item


def _bytes(form: Form, index: int) -> bytes:
    item = form.items[index] if index < len(form.items) else None
    if not isinstance(item, bytes):
        raise ScriptError(f"{form.head} lacks a string", form.line)
    return item


def _name(form: Form, index: int) -> tuple[str | None, int]:
    """The optional `$name` at `index`, and the index after it."""
    item = form.items[index] if index < len(form.items) else None
    if isinstance(item, str) and item.startswith("$"):
        return item, index + 1
    return None, index


def _action(form: Form) -> Action:
    name, at = _name(form, 1)
    field = _bytes(form, at).decode()
    if form.head == "invoke":
        return Invoke(name, field, tuple(constant(item) for item in form.items[at + 1 :]))
    if form.head == "get":
        return Get(name, field)
    raise ScriptError(f"unknown action {form.head!r}", form.line)
