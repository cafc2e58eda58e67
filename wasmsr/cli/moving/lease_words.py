"""The lease of a program on a node, in words."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any


def lease_sentence(lease: Mapping[str, Any]) -> str:
    """Return what a node says of a lease (`ProgramInfo.lease`), for people."""
    parts = [f"epoch {lease['epoch']}"]
    owner = str(lease.get("owner") or "")
    parts.append(f"owner {owner[:8]}" if owner else "owner not known here")
    if "state" in lease:
        parts.append(f"state {lease['state']}")
    if "deadline" in lease:
        parts.append(f"ends {_clock(lease['deadline'])} if it is not renewed")
    if "register" in lease:
        parts.append(f"the register {'answers' if lease['register'] == 'answers' else 'is away'}")
    last = lease.get("checkpoint")
    if last is not None:
        parts.append(f"the checkpoint that counts is of epoch {last['epoch']}")
    return "lease: " + ", ".join(parts)


def lease_cell(lease: Mapping[str, Any] | None) -> str:
    """Return the same for a table: the epoch, and the register if it is away."""
    if lease is None:
        return "-"
    away = ", register away" if lease.get("register") == "away" else ""
    return f"epoch {lease['epoch']}{away}"


def _clock(seconds: Any) -> str:
    try:
        return time.strftime("%H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError, TypeError):
        return "-"


__all__ = ["lease_cell", "lease_sentence"]
