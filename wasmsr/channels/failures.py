"""The error of channels."""

from __future__ import annotations

from wasmsr.errors import LinkError, SnapshotError


class ChannelsNotGranted(LinkError):
    """A program needs channels, and this host gives it none."""


class ChannelRefused(SnapshotError):
    """A saved program has a channel that this host does not give it."""


__all__ = ["ChannelRefused", "ChannelsNotGranted"]
