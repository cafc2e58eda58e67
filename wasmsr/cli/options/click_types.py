"""The kinds of `options` as click's types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from wasmsr.runspec.kinds import Choice, Features, Folders, OptionKind, ReadableFile, WritableFile

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:  # older releases of click do not take a type argument
    ParamType = click.ParamType


class ClickType(ParamType):
    """A type of click that reads what `kind` reads."""

    def __init__(self, kind: OptionKind) -> None:
        self.kind = kind
        self.name = kind.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value that the kind reads; a wrong value ends the command."""
        if not isinstance(value, str):  # a default, or a value that was read already
            return value
        try:
            return self.kind.read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def split_envvar_value(self, rv: str) -> list[str]:
        """Return the values of a variable, one a line."""
        return [line for line in rv.splitlines() if line]

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return completions for the kind."""
        kind = self.kind
        if isinstance(kind, (ReadableFile, WritableFile)):
            return [CompletionItem(incomplete, type="file")]
        if isinstance(kind, Folders):
            return [CompletionItem(incomplete, type="dir")]
        if isinstance(kind, Choice):
            return [CompletionItem(word) for word in kind.words if word.startswith(incomplete)]
        if isinstance(kind, Features):
            from wasmsr.interp.instruction_set.features import SWITCHABLE

            before, comma, last = incomplete.rpartition(",")
            return [
                CompletionItem(f"{before}{comma}{sign}{name}")
                for sign in "-+"
                for name in SWITCHABLE
                if f"{sign}{name}".startswith(last)
            ]
        return []
