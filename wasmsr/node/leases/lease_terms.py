"""What a program asks of its lease: how long it lasts, who may take over, and what happens then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from wasmsr.node.failures import SubmissionRefused
from wasmsr.ownership.failures import EffectRefused
from wasmsr.ownership.fencing import UNFENCED, check_fenced
from wasmsr.ownership.owner_record import FailoverPolicy
from wasmsr.ownership.record_bytes import NODE_BYTES
from wasmsr.runspec.run_spec import RunSpec

SHORTEST, LONGEST = 0.5, 86_400.0
"""Seconds that a lease can have."""

MOST_NODES = 64
"""Nodes in a failover set at most."""

OUTPUTS = ("live", "commit")
"""When output is shown: at once, or when the checkpoint with it counts."""

EVERY = 5.0
"""Seconds between checkpoints of a leased program, if nobody says more."""


@dataclass(frozen=True)
class LeaseTerms:
    """The terms of one program's lease.

    Attributes:
        seconds: The lease.
        failover: Node ids, in hexadecimal digits, of the nodes that may take the program over.
        policy: "restart", "restore" or "fail".
        output: One of `OUTPUTS`.
        unfenced: Effects that cannot be fenced and are allowed all the same.
    """

    seconds: float
    failover: tuple[str, ...] = ()
    policy: str = "restore"
    output: str = "live"
    unfenced: tuple[str, ...] = ()

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> LeaseTerms:
        """Return terms from plain data that somebody else has sent.

        Raises:
            SubmissionRefused: They cannot be.
        """
        try:
            terms = cls(
                float(values["seconds"]),
                tuple(dict.fromkeys(_node(one) for one in values.get("failover", ()))),
                FailoverPolicy(values.get("policy") or "restore").value,
                str(values.get("output") or "live"),
                tuple(dict.fromkeys(str(one) for one in values.get("unfenced", ()))),
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise SubmissionRefused(f"the terms of the lease are none: {error}") from None
        if not SHORTEST <= terms.seconds <= LONGEST:
            raise SubmissionRefused(f"a lease lasts {SHORTEST:g} s to {LONGEST:g} s")
        if len(terms.failover) > MOST_NODES:
            raise SubmissionRefused(f"at most {MOST_NODES} nodes may take a program over")
        if terms.output not in OUTPUTS:
            raise SubmissionRefused("output is shown `live` or after each `commit`")
        for name in terms.unfenced:
            if name not in UNFENCED:
                raise SubmissionRefused(f"there is no effect {name!r} to allow")
        return terms

    @property
    def milliseconds(self) -> int:
        """The lease in milliseconds."""
        return int(self.seconds * 1000)

    @property
    def nodes(self) -> tuple[bytes, ...]:
        """The failover set, as node ids."""
        return tuple(map(bytes.fromhex, self.failover))

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def check(self, run: RunSpec) -> None:
        """Check that a run has no effect outside that cannot be fenced.

        Raises:
            SubmissionRefused: It has one that is not allowed by name.
        """
        try:
            check_fenced(run, self.unfenced)
        except EffectRefused as error:
            raise SubmissionRefused(error.message, hint=error.hint) from None


def _node(text: Any) -> str:
    if not isinstance(text, str) or len(bytes.fromhex(text)) != NODE_BYTES:
        raise ValueError("an id of a node has 32 hexadecimal digits")
    return text.lower()


__all__ = ["EVERY", "LeaseTerms"]
