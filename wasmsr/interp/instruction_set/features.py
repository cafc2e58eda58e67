"""THE table of features: what WebAssembly has beyond its first version, one row each.

`generate` makes of it the numbers that the C core knows; a row of `instructions` names the feature
that it belongs to, and where a type, a section or an immediate needs one the core asks by number. A
feature that is off is one whose modules are refused, with its name. It changes nothing else: of two
engines that both take a module, both do the same with it.

Names are those of the proposals (github.com/WebAssembly/proposals).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from wasmsr.errors import printable
from wasmsr.record import record


class State(Enum):
    """What this engine makes of a feature."""

    ALWAYS = "always on"
    ON = "on, can be switched off"
    OFF = "off, can be switched on"
    PLANNED = "not built yet"
    NEVER = "known by name only"


@record(frozen=True)
class Feature:
    """One feature: its name, its state, and the features that it cannot be without."""

    name: str
    state: State
    builds_on: tuple[str, ...] = ()

    @property
    def symbol(self) -> str:
        """The name in C, without prefix: `MULTI_MEMORY`."""
        return self.name.replace("-", "_").upper()


FEATURES: tuple[Feature, ...] = (
    # WebAssembly 2.0 without vectors: what every toolchain takes for granted
    Feature("mutable-globals", State.ALWAYS),
    Feature("sign-extension", State.ALWAYS),
    Feature("saturating-conversions", State.ALWAYS),
    Feature("multi-value", State.ALWAYS),
    Feature("bulk-memory", State.ALWAYS),
    Feature("reference-types", State.ALWAYS),
    # the rest of 2.0, and 3.0
    Feature("simd", State.ON),
    Feature("relaxed-simd", State.ON, ("simd",)),
    Feature("multi-memory", State.ON),
    Feature("memory64", State.ON),
    Feature("exceptions", State.ON),
    Feature("function-references", State.ON),
    Feature("tail-calls", State.ON),
    Feature("extended-constants", State.ON),
    Feature("gc", State.NEVER, ("function-references",)),
    # proposals beside the standard
    Feature("legacy-exceptions", State.ON, ("exceptions",)),
    Feature("custom-page-sizes", State.PLANNED),
    Feature("wide-arithmetic", State.OFF),
    Feature("threads", State.ON),  # atomic instructions, on the memories of one thread
    Feature("shared-memory", State.NEVER, ("threads",)),  # the other half of that proposal
    Feature("stack-switching", State.NEVER, ("function-references",)),
)
"""To land a feature, set its state here to ON (or OFF: built, and only for who asks for it), and
run the generator. The order gives the numbers in C; it is no part of any format."""

BY_NAME = {feature.name: feature for feature in FEATURES}
SWITCHABLE = tuple(f.name for f in FEATURES if f.state in (State.ON, State.OFF))
DEFAULT = frozenset(f.name for f in FEATURES if f.state in (State.ALWAYS, State.ON))
"""What is on unless somebody says otherwise."""


ADVICE = {
    "gc": "build it by a compiler that uses linear memory; this version has no collected types",
    "custom-page-sizes": "build it with pages of 64 KiB",
    "shared-memory": "build it without threads: without -pthread, or for wasm32-wasip1",
    "stack-switching": "build it without stack switching, for example with Asyncify",
}
"""What to do with a module that needs a feature which this engine does not have."""


def number(name: str) -> int:
    """Return the feature's number in C, from 1 on; its bit in a set is `1 << number`."""
    return FEATURES.index(BY_NAME[name]) + 1


def bits(names: Iterable[str]) -> int:
    """Return a set of features as the core takes it.

    Names that this engine does not have are left out.
    """
    return sum(1 << number(name) for name in set(names) if name in BY_NAME)


def names(bits: int) -> frozenset[str]:
    """Return the features of such a set."""
    return frozenset(f.name for f in FEATURES if bits >> number(f.name) & 1)


def advice(name: str) -> str:
    """Return what to do with a module that needs a feature which is off or not there."""
    if name in SWITCHABLE:
        return f"--features +{name} switches it on"
    return ADVICE[name]


def chosen(wanted: str | Iterable[str] | None) -> frozenset[str]:
    """Return the features that are on.

    Args:
        wanted: None for the default; switches as text, `"-simd,+wide-arithmetic"`, which change the
            default (what builds on a feature goes with it); or the names of all that are on.

    Raises:
        ValueError: A name is not known, or the feature cannot be switched so.
    """
    if wanted is None:
        return DEFAULT
    if not isinstance(wanted, str):
        on = frozenset(wanted)
        for name in on - DEFAULT:
            _check(name, on=True)
        for name in DEFAULT - on:
            _check(name, on=False)
        return on
    result = set(DEFAULT)
    for switch in filter(None, (word.strip() for word in wanted.split(","))):
        name = switch[1:]
        if switch[0] not in "+-":
            shown = printable(switch, 40)
            raise ValueError(f"{switch!r} says neither + nor -: write +{shown} or -{shown}")
        _check(name, on=switch[0] == "+")
        if switch[0] == "+":
            result.update((name, *BY_NAME[name].builds_on))
        else:
            gone = {f.name for f in FEATURES if name in (f.name, *f.builds_on)}
            result -= gone
    return frozenset(result)


def _check(name: str, *, on: bool) -> None:
    feature = BY_NAME.get(name)
    if feature is None:
        raise ValueError(f"there is no feature {name!r}; there are {', '.join(SWITCHABLE)}")
    if on and feature.state in (State.PLANNED, State.NEVER):
        raise ValueError(f"this engine does not have the feature {name!r}")
    if not on and feature.state is State.ALWAYS:
        raise ValueError(f"the feature {name!r} cannot be switched off")
