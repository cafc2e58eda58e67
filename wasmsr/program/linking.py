"""Links the modules of a program: each one can import from those before it.

A program's own module is that of its last instance, because what it imports from has to be there.
"""

from __future__ import annotations

from collections.abc import Mapping

from wasmsr.errors import LinkError, printable
from wasmsr.interp.modules.module import Module
from wasmsr.program.exports import REACTOR, is_reactor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wasmsr.interp.store.instance import Imports, Instance
    from wasmsr.interp.store.store import Store


def check_names(module: Module, preload: Mapping[str, Module], given: Mapping[str, object]) -> None:
    """Check that what every module imports from is there.

    Args:
        module: The program's module.
        preload: The modules before it, by the names under which others import from them.
        given: What the host gives, by name.

    Raises:
        LinkError: A name is given twice, or a module imports from one that is not there.
    """
    known = set(given)
    for name, one in [*preload.items(), ("", module)]:
        for item in one.imports:
            if item.module not in known:
                who = f"the module {printable(name, 100)}" if name else "the program"
                later = item.module in preload
                raise LinkError(
                    f"{who} imports {printable(item.name, 100)} from "
                    f"{printable(item.module, 100)}, which "
                    + ("comes after it" if later else "is not there"),
                    hint="name the modules in an order in which each imports only from earlier ones"
                    if later
                    else f"--preload {printable(item.module, 60)}=FILE gives it",
                )
        if name in given:
            raise LinkError(f"the name {printable(name, 100)} is the host's")
        known.add(name)


def instantiate_all(
    store: Store, module: Module, preload: Mapping[str, Module], imports: Imports
) -> Instance:
    """Instantiate a program's modules in their order, and return the last instance.

    Start functions, and `_initialize` of modules that are reactors, are in the store's queue in the
    same order. None of them has run.

    Args:
        store: The store.
        module: The program's module.
        preload: The modules before it, by the names under which others import from them.
        imports: What the host gives.

    Raises:
        LinkError: An import cannot be provided.
        Trap: An active segment does not fit.
    """
    if preload:
        check_names(module, preload, imports)
    queue = []
    for name, one in preload.items():
        instance = store.instantiate(one, imports, name=name, start=False)
        if is_reactor(one):
            store.enqueue(instance.function(REACTOR))
        queue += store.queue
        store.queue.clear()
        imports = {**imports, name: instance.exports}
    instance = store.instantiate(module, imports, start=False)
    store.queue[:0] = queue
    return instance


__all__ = ["check_names", "instantiate_all"]
