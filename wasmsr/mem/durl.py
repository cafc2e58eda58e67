"""The text that describes a transport: `NAME;IMPL;KEY,VALUE;KEY,VALUE;`.

Source: wuklab/Scad, `runtime/lib/durl.c`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wasmsr.errors import printable
from wasmsr.mem.failures import TransportError

LONGEST = 4096
"""Most characters of such a text."""


@dataclass(frozen=True)
class Durl:
    """A transport in words.

    Attributes:
        name: The name by which an element asks for it.
        impl: Its kind: "local", "shm" or "tcp", without the peer's prefix "rdma_".
        values: The rest.
    """

    name: str
    impl: str
    values: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Durl:
        """Read the text of a transport.

        Raises:
            TransportError: It has another form.
        """
        if len(text) > LONGEST:
            raise TransportError(f"the text of a transport has more than {LONGEST} characters")
        name, first, rest = text.partition(";")
        impl, second, rest = rest.partition(";")
        if not (first and second and name and impl):
            raise TransportError(
                f"{printable(text)} is no transport", hint="the form is NAME;IMPL;KEY,VALUE;"
            )
        return cls(name, impl.removeprefix("rdma_"), parse_values(rest))

    def value(self, key: str) -> str:
        """Return one of the values.

        Raises:
            TransportError: It is not there.
        """
        try:
            return self.values[key]
        except KeyError:
            raise TransportError(
                f"transport {printable(self.name)} of kind {printable(self.impl)} needs {key}",
                hint=f"add {key},VALUE;",
            ) from None

    def __str__(self) -> str:
        values = "".join(f"{key},{value};" for key, value in self.values.items())
        return f"{self.name};rdma_{self.impl};{values}"


def parse_values(text: str) -> dict[str, str]:
    """Read `KEY,VALUE;KEY,VALUE;`; the last `;` may be missing.

    Raises:
        TransportError: A part has no comma or no key.
    """
    values = {}
    for part in text.split(";"):
        if part:
            key, comma, value = part.partition(",")
            if not comma or not key:
                raise TransportError(f"{printable(part)} is not of the form KEY,VALUE")
            values[key] = value
    return values
