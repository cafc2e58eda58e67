"""What a supervisor and its worker say about the state of one program, over a socket of its own.

The supervisor asks `[name, values]`. The worker answers `[True, value]` or `[False, error]`. Before
that it may say `["item", value]` any number of times, and ask itself: `["stays", [pages, files]]`,
files in bytes. While it waits for that answer it takes other questions. The messages are those of
`executor/messages.py`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from wasmsr.errors import WasmsrError
from wasmsr.executor.messages import receive, send
from wasmsr.executor.port import ExecutorError
from wasmsr.executor.process import reported
from wasmsr.executor.worker import failure

ANSWER_SECONDS = 120.0
"""How long a worker may be silent: it restores a program meanwhile, or reads its files."""

PIECE = 1 << 20
"""Bytes of one message at most, about."""

GONE = "the worker has ended while its program was being moved"


class Conversation:
    """The supervisor's side. One thread calls its methods."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._end.settimeout(ANSWER_SECONDS)

    def ask(self, name: str, *values: Any, asked: Callable[..., Any] | None = None) -> Any:
        """Return the answer to a question.

        Args:
            name: The question.
            values: What belongs to it.
            asked: Answers the worker's own questions.

        Raises:
            WasmsrError: What the worker reports, or it is gone.
        """
        for _ in self.items(name, *values, asked=asked):
            raise ExecutorError(f"the worker answers {name!r} with several values")
        return self._value

    def items(
        self, name: str, *values: Any, asked: Callable[..., Any] | None = None
    ) -> Iterator[Any]:
        """Yield the values with which the worker answers; see `ask`."""
        send(self._end, [name, list(values)])
        while True:
            said = receive(self._end)
            if said is None:
                raise ExecutorError(GONE)
            kind, value = said[0]
            if kind == "item":
                yield value
            elif kind == "stays" and asked is not None:
                # A worker of an earlier version says only how many pages there are.
                said_of = value if isinstance(value, list) else [value]
                send(self._end, ["answer", [asked(*said_of)]])
            elif kind is True:
                self._value = value
                return
            elif kind is False:
                raise reported(value)
            else:
                raise ExecutorError("the worker says what this wasmsr does not understand")

    def close(self) -> None:
        """End the conversation; the worker then releases what it kept for it."""
        self._end.close()


Methods = Mapping[str, Callable[..., Any]]


class Answering:
    """The worker's side: answers questions by methods, until the other side closes the socket."""

    def __init__(self, end: socket.socket, methods: Methods) -> None:
        self._end = end
        self._methods = methods

    def serve(self) -> None:
        """Answer until the other side is gone."""
        try:
            while (said := receive(self._end)) is not None:
                self._answer(*said[0])
        except (ExecutorError, OSError, ValueError, TypeError):
            return  # nobody listens any more

    def _answer(self, name: str, values: list[Any]) -> None:
        try:
            value = self._methods[name](*values)
            if isinstance(value, Iterator):
                for one in value:
                    send(self._end, ["item", one])
                value = None
        except ExecutorError as error:
            if isinstance(error.__cause__, OSError):
                raise
            send(self._end, [False, failure(error)])
        except (WasmsrError, OSError, MemoryError, ValueError, TypeError, KeyError) as error:
            send(self._end, [False, failure(error)])
        else:
            send(self._end, [True, value])

    def stays(self, pages: int, files: int = 0) -> bool:
        """Ask the other side whether the program stays paused; answer its questions meanwhile."""
        send(self._end, ["stays", [pages, files]])
        while True:
            said = receive(self._end)
            if said is None:
                raise ExecutorError("the supervisor has ended")
            name, values = said[0]
            if name == "answer":
                return bool(values[0])
            self._answer(name, values)


__all__ = ["PIECE", "Answering", "Conversation"]
