"""Custom sections: names of everything, branch hints; what is damaged is ignored."""

from __future__ import annotations

import random

import pytest

from wasmsr import Module
from wasmsr.interp.modules.custom_sections import HINTS, Names, read_unsigned

TEXT = """(module $whole
  (type $pair (func (param i32) (result i64)))
  (import "env" "there" (func $there (param $x i32)))
  (table $calls 1 funcref) (memory $heap 1) (global $g i32 (i32.const 0)) (tag $oops)
  (elem $list func $there) (data $bytes "abc")
  (func $here (type $pair) (param $first i32) (result i64) (local f32) (local $other v128)
    (block $outer (loop $again (br_if $again (local.get $first)) (if $third (i32.const 0) (then))))
    (i64.const 1))
  (func))"""


def test_names_of_all_kinds() -> None:
    module = Module.from_text(TEXT)
    names = module.names
    assert (module.name, names.module) == ("whole", "whole")
    assert names.functions == {0: "there", 1: "here"}
    assert names.locals == {0: {0: "x"}, 1: {0: "first", 2: "other"}}
    assert names.labels == {1: {0: "outer", 1: "again", 2: "third"}}
    assert names.types == {0: "pair"}
    assert names.tables == {0: "calls"}
    assert names.memories == {0: "heap"}
    assert names.globals == {0: "g"}
    assert names.elements == {0: "list"}
    assert names.data == {0: "bytes"}
    assert names.tags in ({0: "oops"}, {})  # not every assembler writes them
    assert names.fields == {}


def test_a_module_without_names() -> None:
    module = Module.from_text("(module (func))")
    names = module.names
    assert (names.module, names.functions, names.locals, names.tags) == (None, {}, {}, {})
    assert module.function_name(0) == "func[0]"


def everything(names: Names) -> list[object]:
    return [
        *(names.module, names.functions, names.locals, names.labels, names.types, names.tables),
        *(names.memories, names.globals, names.elements, names.data, names.fields, names.tags),
    ]


def test_damage_is_no_error_and_loses_one_kind() -> None:
    section = Module.from_text(TEXT).custom_section("name")
    assert section is not None
    whole = everything(Names(section))
    draw = random.Random(2)
    for _ in range(3000):
        damaged = bytearray(section)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(len(damaged))] = draw.choice((0, 0x7F, 0x80, 0xFF))
        everything(Names(bytes(damaged[: draw.randint(0, len(damaged))])))
    # The functions' names end in the middle of a name.
    broken = Names(b"\x01\x04\x01\x00\x09a" + section)
    assert broken.functions == {}
    assert everything(broken)[2:] == whole[2:]


@pytest.mark.parametrize(
    "section",
    [
        b"\x01\xff\xff\xff\xff\x0f",
        b"\x01" + b"\x80" * 1_000_000,
        b"\x01\x05\xff\xff\xff\xff\x0f",
        b"\x02\x07\x01\x00\xff\xff\xff\xff\x0f",
        b"\x01\x04\x01\x00\x01\xff",
    ],
    ids=["size", "long number", "count", "inner count", "no text"],
)
def test_hostile_sections(section: bytes) -> None:
    names = Names(section)
    assert (names.functions, names.locals) == ({}, {})


def test_numbers() -> None:
    assert read_unsigned(b"\xe5\x8e\x26", 0) == (624485, 3)
    assert read_unsigned(b"\xff\xff\xff\xff\x0f", 0) == (2**32 - 1, 5)
    with pytest.raises(ValueError, match="32 bits"):
        read_unsigned(b"\x80" * 6, 0)
    with pytest.raises(IndexError):
        read_unsigned(b"\x80", 0)


# ---- branch hints

BRANCHES = """(module (import "env" "f" (func))
  (func (param i32) (local i64 (ref null func) f32)
    (if (local.get 0) (then nop))
    (block (br_if 0 (local.get 0)) (i64.const 4) drop))
  (func (param i32) (if (local.get 0) (then))))"""


def with_section(binary: bytes, contents: bytes) -> bytes:
    """The module with that section before its code section."""
    name = bytes([len(HINTS)]) + HINTS.encode()
    section = bytes([0, len(name) + len(contents)]) + name + contents
    at = 8
    while binary[at] != 10:
        size, start = read_unsigned(binary, at + 1)
        at = start + size
    return binary[:at] + section + binary[at:]


def hinted(*functions: tuple[int, list[tuple[int, bytes]]]) -> Module:
    out = [bytes([len(functions)])]
    for index, hints in functions:
        out.append(bytes([index, len(hints)]))
        out += [bytes([offset]) + rest for offset, rest in hints]
    return Module(with_section(Module.from_text(BRANCHES).binary, b"".join(out)))


def places() -> tuple[int, int, int]:
    """Offsets of the three branches, from the beginning of the body's locals."""
    module = Module.from_text(BRANCHES)
    (first, end), (second, last) = module.body_range(1), module.body_range(2)
    body = module.binary[first:end]
    return (
        body.index(b"\x20\x00\x04\x40") + 2,
        body.index(b"\x20\x00\x0d\x00") + 2,
        module.binary[second:last].index(b"\x04\x40"),
    )


UNLIKELY, LIKELY = b"\x01\x00", b"\x01\x01"


def test_branch_hints() -> None:
    assert Module.from_text(BRANCHES).branch_hints == {}
    a, b, c = places()
    module = hinted((1, [(a, LIKELY), (b, UNLIKELY)]), (2, [(c, LIKELY)]))
    first, second = module.body_range(1)[0], module.body_range(2)[0]
    assert module.branch_hints == {first + a: True, first + b: False, second + c: True}
    assert [module.binary[at] for at in module.branch_hints] == [0x04, 0x0D, 0x04]
    other = hinted((2, [(c, UNLIKELY)]))
    assert other.branch_hints == {other.body_range(2)[0] + c: False}


def test_hints_as_an_assembler_writes_them() -> None:
    module = Module.from_text("""(module (func (param i32) (local i64)
      local.get 0 (@metadata.code.branch_hint "\\01") if nop end
      block local.get 0 (@metadata.code.branch_hint "\\00") br_if 0 end))""")
    assert module.custom_section(HINTS) is not None
    begin, _ = module.body_range(0)
    code = module.binary[begin:]
    assert module.branch_hints == {
        begin + code.index(b"\x04\x40"): True,
        begin + code.index(b"\x0d\x00"): False,
    }


def test_hints_that_are_not_as_they_should_be_are_ignored() -> None:
    a, b, c = places()
    for functions in (
        [(1, [(b, LIKELY), (a, LIKELY)])],  # out of order
        [(1, [(a, LIKELY), (a, LIKELY)])],
        [(2, [(c, LIKELY)]), (1, [(a, LIKELY)])],
        [(1, [(a, LIKELY)]), (1, [(b, LIKELY)])],
        [(1, [(a - 1, LIKELY)])],  # in the midst of an instruction
        [(1, [(a + 2, LIKELY)])],  # another instruction
        [(1, [(0, LIKELY)])],  # the locals
        [(1, [(127, LIKELY)])],  # behind the end
        [(1, [(a, b"\x01\x02")])],
        [(1, [(a, b"\x00")])],
        [(0, [(a, LIKELY)])],  # imported
        [(3, [(a, LIKELY)])],  # not there
    ):
        assert hinted(*functions).branch_hints == {}
    whole = bytes([1, 2, 1, c]) + LIKELY
    binary = Module.from_text(BRANCHES).binary
    assert len(Module(with_section(binary, whole)).branch_hints) == 1
    for cut in range(len(whole)):
        assert Module(with_section(binary, whole[:cut])).branch_hints == {}
    assert Module(with_section(binary, whole + b"\0")).branch_hints == {}
