"""Rows of the SIMD part of the instruction table, and how one line makes several.

`simd` says what the fields of a row mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

SHAPES = {"i8x16": 8, "i16x8": 16, "i32x4": 32, "i64x2": 64, "f32x4": 32, "f64x2": 64}
"""Shapes of vectors, and the bits of one lane."""


@dataclass(frozen=True)
class Vector:
    """One vector instruction.

    Attributes:
        code: Second part of the opcode; None for a cell that only the compiler makes.
        name: Mnemonic of the text format.
        immediates: What follows the opcode, as named in `instructions.IMMEDIATES`.
        params, results: Operand types, space separated, as in `instructions`.
        form: What `body` is. "lanes": lane i of the result; "fold": the next value of t, for each
            lane i, beginning with `start`; "scalar": the result. "load" and "store": what
            is done at address p; "const" and "shuffle" have the 16 bytes k behind the opcode.
        out: Lane type of the result ("u8", "i16", "f32", …), for "lanes".
        ins: Lane types of the vector operands, in order.
        body: C expression. `a`, `b`, `c` are lanes i of the operands, `A(k)`, `B(k)` lanes k; `x`
            is the operand that is no vector, `lane` the lane immediate, `va`, `vb` whole vectors.
        start: See `form`.
        width: Bytes that a load or store touches.
        sse2, v2: The same in intrinsics, of whole vectors: for every x86-64 CPU, and for those of
            level 2 (SSE 4.2), which the compiler to fast code asks the CPU for.
        nan: "f32" or "f64", where lanes may be NaNs whose bits the specification leaves open.
        feature: As named in `features`.
    """

    code: int | None
    name: str
    immediates: str = ""
    params: str = ""
    results: str = ""
    form: str = "lanes"
    out: str = ""
    ins: tuple[str, ...] = ()
    body: str = ""
    start: int = 0
    width: int = 0
    sse2: str = ""
    v2: str = ""
    nan: str = ""
    feature: str = "simd"

    @property
    def function(self) -> str:
        """The name of its C function."""
        return "wsr_" + self.name.replace(".", "_").replace(" ", "_")


def lanes(
    code: int | None,
    name: str,
    out: str,
    ins: str,
    body: str,
    *,
    scalar: str = "",
    sse2: str = "",
    v2: str = "",
    nan: str = "",
) -> Vector:
    """Return a vector from vectors, lane by lane; `scalar` is the type of a last operand."""
    operands = tuple(ins.split())
    params = " ".join(["v128"] * len(operands) + [scalar] * bool(scalar))
    return Vector(
        code, name, "", params, "v128", "lanes", out, operands, body, sse2=sse2, v2=v2, nan=nan
    )


def each(
    operation: str,
    kind: str,
    body: str,
    n: int,
    codes: Mapping[str, int],
    *,
    out: str = "",
    scalar: str = "",
    sse2: str = "",
    v2: str = "",
    nan: bool = False,
) -> Iterator[Vector]:
    """One operation in several shapes: `kind` is the letter of the lanes of its `n` operands, `out`
    that of the result's. In the texts N stands for the bits of a lane, and P for ps or pd."""
    for shape, code in codes.items():
        bits = str(SHAPES[shape])
        suffix = "ps" if shape == "f32x4" else "pd"
        texts = [text.replace("N", bits).replace("P", suffix) for text in (body, sse2, v2)]
        yield lanes(
            code,
            f"{shape}.{operation}",
            (out or kind) + bits,
            " ".join([kind + bits] * n),
            texts[0],
            scalar=scalar,
            sse2=texts[1],
            v2=texts[2],
            nan=shape[:3] if nan else "",
        )
