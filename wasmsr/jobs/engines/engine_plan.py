"""What runs the executions of a job: this machine, or nodes on other servers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from wasmsr.errors import printable
from wasmsr.jobs.failures import JobError

CPU_LABEL: Final = "cpu"
"""The word of a server that is no label, but says how many CPUs its executions may take."""

PROOFS: Final = ("token_file", "tls_authority", "tls_certificate", "tls_key")
"""Files that prove to nodes who asks them."""


@dataclass(frozen=True)
class PlannedServer:
    """A node that runs executions.

    Attributes:
        address: Its address, `HOST:PORT`.
        cpu: CPUs that its executions may take together; None for all that it has.
        labels: Its labels, which `Constraints` ask for.
    """

    address: str
    cpu: float | None = None
    labels: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> PlannedServer:
        """Return the server that `ADDRESS[,KEY=VALUE...]` names.

        Raises:
            ValueError: A word is no label, or `cpu` is no number above 0.
        """
        address, *words = text.split(",")
        if not address:
            raise ValueError(f"{printable(text)!r} has no address")
        cpu, labels = None, dict[str, str]()
        for word in words:
            key, equals, value = word.partition("=")
            if not equals or not key:
                raise ValueError(f"{printable(word)!r} is no label; a label is KEY=VALUE")
            if key == CPU_LABEL:
                try:
                    cpu = float(value)
                except ValueError:
                    cpu = 0.0
                if not 0 < cpu < float("inf"):
                    raise ValueError(f"cpu={printable(value)} is no number of CPUs")
            else:
                labels[key] = value
        return cls(address, cpu, tuple(sorted(labels.items())))

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, which `EnginePlan.read` takes."""
        return {"address": self.address, "cpu": self.cpu, "labels": dict(self.labels)}


@dataclass(frozen=True)
class EnginePlan:
    """What runs the executions of a job. Without servers and Ray that is this machine.

    Attributes:
        compat: Whether they run as on Bacalhau.
        servers: Nodes. The first that has room runs the next execution.
        ray: The address of a Ray cluster that says where an execution runs, or "".
        shared: The folder that all servers reach by the same path, or "" for that of the jobs.
        lease: Seconds of the lease of each execution; None for none.
        proof: Files that prove to the nodes who asks, by their names in `PROOFS`.
    """

    compat: bool = False
    servers: tuple[PlannedServer, ...] = ()
    ray: str = ""
    shared: str = ""
    lease: float | None = None
    proof: tuple[tuple[str, str], ...] = field(default=())

    @classmethod
    def read(cls, data: Mapping[str, Any], *, compat: bool = False) -> EnginePlan:
        """Return the plan that a list of jobs has.

        Raises:
            JobError: SpecError; it is none, because a newer version made it.
        """
        try:
            return cls(
                compat,
                tuple(
                    PlannedServer(
                        str(one["address"]),
                        None if one["cpu"] is None else float(one["cpu"]),
                        _pairs(one["labels"]),
                    )
                    for one in data.get("servers", ())
                ),
                str(data.get("ray", "")),
                str(data.get("shared", "")),
                None if data.get("lease") is None else float(data["lease"]),
                _pairs(data.get("proof", {})),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise JobError(
                "SpecError", f"the list of jobs has no servers that can be used: {error!r}"
            ) from None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, without what has its default; `compat` is not in it."""
        found: dict[str, Any] = {
            "servers": [one.as_dict() for one in self.servers],
            "ray": self.ray,
            "shared": self.shared,
            "lease": self.lease,
            "proof": dict(self.proof),
        }
        return {name: value for name, value in found.items() if value}

    @property
    def key(self) -> str:
        """A text that is the same for equal plans."""
        return json.dumps([self.compat, self.as_dict()], sort_keys=True)

    @property
    def is_elsewhere(self) -> bool:
        """Whether nodes run the executions, so that they outlive the process that watches them."""
        return bool(self.servers or self.ray)

    @property
    def capacity(self) -> float | None:
        """CPUs that executions may take together; None for those of this machine."""
        if not self.is_elsewhere:
            return None
        limits = [one.cpu for one in self.servers]
        if self.ray or None in limits:
            return float("inf")  # Ray lets them wait, or the placement does
        return sum(one for one in limits if one is not None)

    def check(self) -> None:
        """Check what the plan says together.

        Raises:
            JobError: SpecError; its parts exclude each other.
        """
        addresses = [one.address for one in self.servers]
        problem = ""
        if self.ray and self.servers:
            problem = "--ray and --server exclude each other: the raylets name their nodes"
        elif len(set(addresses)) != len(addresses):
            problem = "a server is there twice"
        elif not self.is_elsewhere and (self.shared or self.lease is not None or self.proof):
            problem = "--shared, --lease, --token-file and --tls-... are for --server and --ray"
        elif self.compat and self.is_elsewhere:
            problem = "--compat is for executions on this machine"
        if problem:
            raise JobError("SpecError", problem)


def _pairs(data: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((str(key), str(value)) for key, value in data.items()))


def matching(servers: Iterable[PlannedServer], constraints: Iterable[Any]) -> list[PlannedServer]:
    """Return the servers whose labels meet all constraints."""
    wanted = list(constraints)
    return [one for one in servers if all(part.holds(dict(one.labels)) for part in wanted)]


__all__ = ["PROOFS", "EnginePlan", "PlannedServer", "matching"]
