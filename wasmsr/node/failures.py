"""The errors of a node."""

from __future__ import annotations

from wasmsr.errors import EXIT_MIGRATION, EXIT_USAGE, WasmsrError


class NodeError(WasmsrError):
    """A node cannot do what was asked: the message names node, program and reason."""


class NoSuchProgram(NodeError):
    """The node has no program of this id, or several whose ids begin so."""

    exit_code = EXIT_USAGE


class WrongState(NodeError):
    """The program is in a state in which this cannot be done."""


class NotMoved(NodeError):
    """A program was not moved: it runs on where it was, or has ended there."""

    exit_code = EXIT_MIGRATION


class NodeAway(NodeError):
    """The node does not answer, so nobody knows whether it did what was asked."""


class NodeBusy(NodeError):
    """The node has as many calls of this kind as it takes; nothing was done."""


class SubmissionRefused(NodeError):
    """The node does not take the program as it was described."""

    exit_code = EXIT_USAGE
