"""Programs that make calls of WASI one after the other, and show the answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from wasmsr.wasi.preview1.functions import BY_NAME, MODULE

TYPES = {"i": "i32", "I": "i64"}
OUT, VECTORS, BUFFER, STRINGS = 1024, 2048, 4096, 40000
"""Where results, arrays of buffers, buffers, and the strings of calls are in memory."""


@dataclass
class Script:
    """A program that makes calls of WASI, and shows each answer on standard output.

    Attributes:
        steps: The code so far.
        data: The strings of the calls.
        used: The names of the calls.
        place: Where the next string goes.
        shown: What each line of the output is about.
    """

    steps: list[str] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    place: int = STRINGS
    shown: list[str] = field(default_factory=list)

    def string(self, value: bytes) -> tuple[int, int]:
        """Put bytes into memory; their place and their number."""
        text = "".join(f"\\{byte:02x}" for byte in value)
        self.data.append(f'(data (i32.const {self.place}) "{text}")')
        self.place += len(value)
        return self.place - len(value), len(value)

    def call(self, name: str, *given: int | bytes, show: tuple[int, int] | None = None) -> None:
        """Make a call; bytes are two arguments. Show the errno, and so many bytes of memory."""
        self.used.add(name)
        self.shown += [f"{name} {given}"] * (1 if show is None else 2)
        values: list[int] = []
        for one in given:
            values += self.string(one) if isinstance(one, bytes) else (one,)
        signature = BY_NAME[name].params
        assert len(signature) == len(values), name
        pushed = " ".join(
            f"({TYPES[kind]}.const {value})" for kind, value in zip(signature, values, strict=True)
        )
        self.steps.append(f"(i32.store (i32.const 0) (call ${name} {pushed}))")
        self.steps.append("(call $show (i32.const 0) (i32.const 1))")
        if show is not None:
            self.steps.append(f"(call $show (i32.const {show[0]}) (i32.const {show[1]}))")

    def vectors(self, *pairs: tuple[int, int]) -> tuple[int, int]:
        """Put an array of buffers into memory, when the program is there; its place and length."""
        for number, (place, size) in enumerate(pairs):
            at = VECTORS + number * 8
            self.steps.append(f"(i32.store (i32.const {at}) (i32.const {place}))")
            self.steps.append(f"(i32.store (i32.const {at + 4}) (i32.const {size}))")
        return VECTORS, len(pairs)

    def text(self) -> str:
        """The program."""
        imports = "\n".join(
            f'(import "{MODULE}" "{name}" (func ${name} (param '
            + " ".join(TYPES[kind] for kind in BY_NAME[name].params)
            + ") (result i32)))"
            for name in sorted(self.used | {"fd_write"})
        )
        return f"""(module {imports} (memory (export "memory") 2)
          (data (i32.const 16) "0123456789abcdef")
          {" ".join(self.data)}
          (func $show (param $at i32) (param $size i32) (local $to i32)
            (local.set $to (i32.const 65536))
            (block (loop (br_if 1 (i32.eqz (local.get $size)))
              (i32.store8 (local.get $to) (i32.load8_u (i32.add (i32.const 16)
                (i32.shr_u (i32.load8_u (local.get $at)) (i32.const 4)))))
              (i32.store8 (i32.add (local.get $to) (i32.const 1)) (i32.load8_u (i32.add
                (i32.const 16) (i32.and (i32.load8_u (local.get $at)) (i32.const 15)))))
              (local.set $to (i32.add (local.get $to) (i32.const 2)))
              (local.set $at (i32.add (local.get $at) (i32.const 1)))
              (local.set $size (i32.sub (local.get $size) (i32.const 1))) (br 0)))
            (i32.store8 (local.get $to) (i32.const 10))
            (i32.store (i32.const 8) (i32.const 65536))
            (i32.store (i32.const 12) (i32.sub (local.get $to) (i32.const 65535)))
            (drop (call $fd_write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 4))))
          (func (export "_start") (local i32) (nop) (nop) (nop) (nop)
            {" ".join(self.steps)}))"""
