"""Bodies that are validated when they are compiled: the scripts' invalid modules, a function at a
time, give the error that they give as a whole, and what is valid in them does no harm."""

from __future__ import annotations

import pytest

from tests.interp.machines import uncompilable
from wasmsr import Module, ModuleError, Store, Trap

from . import suite
from .convert import Refused, to_binary
from .script import AssertModule

pytestmark = pytest.mark.skipif(suite.absence() is not None, reason=str(suite.absence()))


def refused_late(binary: bytes) -> bool:
    """Whether the binary is refused whole, by the body of a function, and so it is lazily."""
    try:
        Module(binary)
    except ModuleError as error:
        whole = error
    else:
        return False
    try:
        module = Module(binary, lazy=True)
    except ModuleError as error:
        assert (type(error), str(error)) == (type(whole), str(whole))
        return False
    if module.imports:
        return False
    store = Store()
    try:
        instance = store.instantiate(module, start=False)
    except Trap:
        instance = store.instances[0]
    found = uncompilable(instance)
    assert type(found) is type(whole)
    assert str(found).endswith(str(whole))
    store.check()
    return True


@pytest.mark.parametrize(
    ("every", "least"), [(8, 100), pytest.param(1, 1000, marks=pytest.mark.full)]
)
def test_invalid_modules_of_the_scripts(every: int, least: int) -> None:
    late = 0
    for name in suite.names()[::every]:
        for command in suite.load(name).commands():
            if not isinstance(command, AssertModule) or command.kind == "unlinkable":
                continue
            try:
                binary = to_binary(command.source)
            except Refused:
                continue
            late += refused_late(binary)
    assert late > least
