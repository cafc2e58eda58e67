"""Section *store*: modules, host functions and instances. Format document, section 5.3."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from wasmsr.errors import DigestError
from wasmsr.snapshot.encoding.canonical import pack
from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.section import Draft, FieldTypes, Section, WrittenPages
from wasmsr.snapshot.rules import TYPE_NAMES, U32, VALUE_TYPES, CheckScope, invalid
from wasmsr.snapshot.state import HostFunctionState, InstanceState, ModuleRef, SnapshotState

if TYPE_CHECKING:
    from wasmsr.snapshot.inspect.names import SnapshotNames
    from wasmsr.snapshot.inspect.text_tables import Block

_NONE = type(None)
_KEYS = ("modules", "host_functions", "instances")
_TYPES: FieldTypes = frozenset({(list, list, list)})
_MODULE = ("digest", "size", "name", "embedded")
_MODULE_TYPES: FieldTypes = frozenset({(bytes, int, str, bool), (bytes, int, _NONE, bool)})
_HOST = ("address", "module", "name", "params", "results")
_HOST_TYPES: FieldTypes = frozenset({(int, str, str, bytes, bytes)})
_INSTANCE = (
    "module",
    "function_base",
    "defined",
    "functions",
    "tables",
    "memories",
    "globals",
    "name",
)
_INSTANCE_TYPES: FieldTypes = frozenset(
    {
        (int, int, int, list, list, list, list, str),
        (int, int, int, list, list, list, list, _NONE),
    }
)


class StoreSection(Section):
    """Which modules, host functions and instances the store has, and their addresses."""

    kind = 3
    name = "store"
    required = True
    place = 40

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return a map of three lists."""
        modules = [
            {
                "digest": one.digest,
                "size": one.size,
                "name": one.name,
                "embedded": one.binary is not None,
            }
            for one in state.modules
        ]
        hosts = [{key: getattr(one, key) for key in _HOST} for one in state.host_functions]
        instances = [{key: getattr(one, key) for key in _INSTANCE} for one in state.instances]
        return pack(dict(zip(_KEYS, (modules, hosts, instances), strict=True)), "the store")

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Set the state's modules, host functions and instances."""
        modules, hosts, instances = self.fields(self.unpack(data), _KEYS, _TYPES)
        state = draft.state
        draft.embedded, state.modules = self._modules(modules)
        state.host_functions = [
            HostFunctionState(*self.fields(one, _HOST, _HOST_TYPES)) for one in hosts
        ]
        state.instances = [self._instance(one) for one in instances]

    def embedded_size(self, data: Buffer) -> int:
        """Return the length of all embedded modules, from a payload of this section."""
        modules, _, _ = self.fields(self.unpack(data), _KEYS, _TYPES)
        embedded, found = self._modules(modules)
        return sum(one.size for one, inside in zip(found, embedded, strict=True) if inside)

    def _modules(self, items: list[Any]) -> tuple[list[bool], list[ModuleRef]]:
        """Return which modules are embedded, and the modules."""
        found = [self.fields(one, _MODULE, _MODULE_TYPES) for one in items]
        # The section *binaries* gives embedded modules their bytes.
        modules = [
            ModuleRef(digest, size, name, b"" if inside else None)
            for digest, size, name, inside in found
        ]
        return [one[3] for one in found], modules

    def _instance(self, item: Any) -> InstanceState:
        fields = self.fields(item, _INSTANCE, _INSTANCE_TYPES)
        for addresses in fields[3:7]:
            self.list_of(addresses, int)
        module, base, defined, functions, tables, memories, cells, name = fields
        return InstanceState(module, base, defined, functions, tables, memories, cells, name=name)

    def check(self, state: SnapshotState, scope: CheckScope) -> None:
        """Check digests, types and addresses."""
        for number, module in enumerate(state.modules):
            _check_module(number, module)
        types = [one.params + one.results for one in state.host_functions]
        if b"".join(types).translate(None, VALUE_TYPES):
            for one, codes in zip(state.host_functions, types, strict=True):
                if codes.translate(None, VALUE_TYPES):
                    raise invalid(
                        f"the type of host function {one.address} has an unknown value type"
                    )
        for number, instance in enumerate(state.instances):
            _check_instance(number, instance, state, scope.functions)

    def describe(self, state: SnapshotState, names: SnapshotNames) -> dict[str, Any]:
        """Return modules, instances and host functions."""
        modules = [
            {
                "name": one.name,
                "sha256": one.digest.hex(),
                "size": one.size,
                "embedded": one.binary is not None,
            }
            for one in state.modules
        ]
        instances = [
            {
                "name": one.name,
                "module": one.module,
                "imported_functions": one.functions,
                "function_base": one.function_base,
                "defined_functions": one.defined,
                "tables": one.tables,
                "memories": one.memories,
                "globals": one.globals,
                "dropped_elements": one.dropped_elements,
                "dropped_data": one.dropped_data,
            }
            for one in state.instances
        ]
        hosts = [
            {
                "address": one.address,
                "name": f"{one.module}.{one.name}",
                "identity": one.identity,
                "type": f"({_types(one.params)}) -> ({_types(one.results)})",
            }
            for one in state.host_functions
        ]
        return {"modules": modules, "instances": instances, "host_functions": hosts}

    def blocks(self, description: Mapping[str, Any], *, values: bool) -> Iterator[Block]:
        """Yield modules and instances."""
        from wasmsr.snapshot.inspect.text_tables import size, text

        yield (
            "Modules",
            ("", "name", "size", "SHA-256", ""),
            [
                (str(n), text(m["name"]), size(m["size"]), m["sha256"], "embedded" * m["embedded"])
                for n, m in enumerate(description["modules"])
            ],
        )
        yield (
            "Instances",
            ("", "name", "module", "functions", "tables", "memories", "globals"),
            [
                (
                    str(n),
                    text(i["name"]),
                    str(i["module"]),
                    f"{len(i['imported_functions'])} + {i['defined_functions']}",
                    *(text(i[key]) for key in ("tables", "memories")),
                    str(len(i["globals"])),
                )
                for n, i in enumerate(description["instances"])
            ],
        )


def _types(codes: bytes) -> str:
    return ", ".join(TYPE_NAMES[code] for code in codes)


def _check_module(number: int, module: ModuleRef) -> None:
    if len(module.digest) != 32:
        raise invalid(f"the digest of module {number} has not 32 bytes")
    if not 0 <= module.size < U32:
        raise invalid(f"the size of module {number} is {module.size}")
    if module.binary is not None:
        from hashlib import sha256

        if len(module.binary) != module.size:
            raise invalid(f"the embedded module {number} has not the size stated")
        if sha256(module.binary).digest() != module.digest:
            raise DigestError(f"the embedded module {number} is not the one its digest names")


def _check_instance(
    number: int, instance: InstanceState, state: SnapshotState, functions: int
) -> None:
    if not 0 <= instance.module < len(state.modules):
        raise invalid(f"instance {number} names module {instance.module} of {len(state.modules)}")
    if not 0 <= instance.function_base <= functions or not 0 <= instance.defined <= functions:
        raise invalid(f"the functions of instance {number} are not those of the store")
    for what, addresses, count in (
        ("function", instance.functions, functions),
        ("table", instance.tables, len(state.tables)),
        ("memory", instance.memories, len(state.memories)),
        ("global", instance.globals, len(state.globals)),
        ("tag", instance.tags, len(state.tags)),
    ):
        if addresses and (min(addresses) < 0 or max(addresses) >= count):
            raise invalid(f"instance {number} names a {what} address that is not one of {count}")


STORE = StoreSection()
SECTIONS = (STORE,)
