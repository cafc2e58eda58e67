"""Which host function answers after a restore: known by its identity, or by the import's names."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import wasmsr
from wasmsr import FuncType, HostFunction, Imports, LinkError, Module, SnapshotError, Store, ValType
from wasmsr.snapshot.format import decode, encode
from wasmsr.snapshot.inspect.describe import describe

KIND = FuncType((), (ValType.I32,))
MODULE = Module.from_text('(module (import "" "0" (func $f (result i32))) (export "f" (func $f)))')


def gives(number: int, identity: str | None = None) -> HostFunction:
    return HostFunction(KIND, lambda caller: number, identity=identity)


def saved(store: Store) -> wasmsr.Snapshot:
    return wasmsr.Snapshot(decode(b"".join(encode(wasmsr.Snapshot.of(store).state))))


def results(store: Store) -> list[int]:
    return [instance.function("f")() for instance in store.instances]


def linked(*functions: HostFunction | Callable[..., int]) -> Store:
    store = Store()
    for function in functions:
        store.instantiate(MODULE, {"": {"0": function}})
    return store


@pytest.mark.parametrize(
    "store",
    [
        linked(gives(1), gives(2)),
        linked(lambda: 1, lambda: 2),
        linked(gives(1, "one"), gives(2), gives(3)),
    ],
)
def test_an_ambiguous_restore_is_refused(store: Store) -> None:
    snapshot = saved(store)
    with pytest.raises(SnapshotError, match=r"two host functions for the import \.0, at the") as e:
        snapshot.restore(modules=[MODULE], imports={"": {"0": gives(2)}})
    assert e.value.hint and "identity" in e.value.hint


def test_also_where_one_module_imports_a_name_twice() -> None:
    """Within one module both imports get the same function; what differs is what is restored."""
    text = '(import "e" "f" (func (result i32)))'
    module = Module.from_text(f'(module {text} {text} (export "f" (func 0)) (export "g" (func 1)))')
    given = {"e": {"f": lambda: 1}}
    store = Store()
    store.instantiate(module, given)
    assert len(store.hosts) == 1
    restored = saved(store).restore(modules=[module], imports={"e": {"f": lambda: 5}})
    instance = restored.instances[0]
    assert (instance.function("f")(), instance.function("g")()) == (5, 5)


def test_identities_tell_them_apart() -> None:
    store = linked(gives(1, "one"), gives(2, "two"), gives(1, "1"))
    snapshot = saved(store)
    imports: Imports = {"x": {"a": gives(20, "two"), "b": gives(10, "one"), "c": gives(30, "1")}}
    for _ in range(3):
        restored = snapshot.restore(modules=[MODULE], imports=imports)
        assert results(restored) == [10, 20, 30]
        assert saved(restored).content_digest() == snapshot.content_digest()
        snapshot = saved(restored)
    assert [host["identity"] for host in describe(snapshot.state)["host_functions"]] == [
        "one",
        "two",
        "1",
    ]


def test_one_with_and_one_without() -> None:
    snapshot = saved(linked(gives(1), gives(2, "two")))
    imports: Imports = {"": {"0": gives(5), "1": gives(6, "two")}}
    assert results(snapshot.restore(modules=[MODULE], imports=imports)) == [5, 6]


def test_a_missing_identity_is_refused() -> None:
    snapshot = saved(linked(gives(1, "one")))
    for given in (gives(1), gives(1, "two"), lambda: 1):
        with pytest.raises(SnapshotError, match="with the identity 'one', which is not given"):
            snapshot.restore(modules=[MODULE], imports={"": {"0": given}})
    other = HostFunction(FuncType((), (ValType.I64,)), lambda caller: 1, identity="one")
    with pytest.raises(SnapshotError, match="must be"):
        snapshot.restore(modules=[MODULE], imports={"": {"0": other}})


def test_an_identity_is_unique_in_a_store() -> None:
    store = linked(gives(1, "one"))
    with pytest.raises(LinkError, match="two host functions have the identity 'one'"):
        store.instantiate(MODULE, {"": {"0": gives(2, "one")}})
    one = gives(3, "three")
    assert results(linked(one, one)) == [3, 3]
    assert len(linked(one, one).hosts) == 1


def test_an_old_snapshot_can_be_given_identities() -> None:
    snapshot = saved(linked(gives(1), gives(2)))
    for function, identity in zip(snapshot.state.host_functions, ("one", "two"), strict=True):
        function.identity = identity
    imports: Imports = {"": {"0": gives(1, "one"), "1": gives(2, "two")}}
    assert results(snapshot.restore(modules=[MODULE], imports=imports)) == [1, 2]
    snapshot.state.host_functions[0].identity = "two"
    with pytest.raises(wasmsr.FormatError, match="have one identity"):
        snapshot.restore(modules=[MODULE], imports=imports)


class Hosts:
    def f(self) -> int:
        return 8


def test_the_same_callable_is_the_same_function() -> None:
    """In two instances, also as a method, which Python makes anew whenever it is named."""
    hosts = Hosts()
    store = linked(hosts.f, hosts.f)
    assert len(store.hosts) == 1
    restored = saved(store).restore(modules=[MODULE], imports={"": {"0": hosts.f}})
    assert results(restored) == [8, 8]


def test_types_tell_imports_of_one_name_apart() -> None:
    module = Module.from_text(
        '(module (import "e" "f" (func (result i32))) (import "e" "f" (func (result i64)))'
        ' (export "f" (func 0)) (export "g" (func 1)))'
    )
    store = Store()
    store.instantiate(module, {"e": {"f": lambda: 4}})
    restored = saved(store).restore(modules=[module], imports={"e": {"f": lambda: 4}})
    assert results(restored) == [4]
    assert restored.instances[0].function("g")() == 4


def test_an_unhashable_callable_still_links() -> None:
    class Odd:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self) -> int:
            return 9

    assert results(linked(Odd())) == [9]


def test_pauses_in_the_middle_keep_identities() -> None:
    module = Module.from_text(
        '(module (import "e" "f" (func $f (result i32))) (func (export "f") (result i32)'
        " (i32.add (call $f) (call $f))))"
    )
    one, two = gives(1, "one"), gives(100, "two")
    imports: Imports = {"e": {"one": one, "two": two}}
    for steps in range(1, 12):
        store = Store()
        for function in (one, two):
            store.enqueue(store.instantiate(module, {"e": {"f": function}}).function("f"))
        if isinstance(store.run(fuel=steps), wasmsr.Paused):
            store = saved(store).restore(modules=[module], imports=imports)
        outcome = store.run()
        assert isinstance(outcome, wasmsr.Finished) and outcome.results == (200,)
