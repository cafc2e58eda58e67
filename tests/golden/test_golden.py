"""Snapshots of every format version that was ever written are read for ever, to the same state."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from tests.golden.plain import plain
from wasmsr.errors import FormatError
from wasmsr.snapshot.encoding.container import TRAILER
from wasmsr.snapshot.encoding.section import ReadBase
from wasmsr.snapshot.format import Decoder, content_digest, decode, encode
from wasmsr.wasi.facade import Wasi

FOLDER = Path(__file__).parent
SAMPLES = sorted(FOLDER.glob("v*.bin"))
HANDED = {"v1-handed", "v2-handed"}
# What was frozen, by SHA-256 of the file: a sample that changes would prove nothing.
FROZEN = {
    "v1-batches": "400e3d083c2b233e8485a810d2a5035ff9c541a6c704ea444581c69ab428a9bc",
    "v1-empty": "72f3ce947c53f3a954151ea2340fe93af8f94c195c03f8ede911254982ea81e4",
    "v1-everything-raw": "e88268e710aaeb403c10e0442ea1784d7344da1ac2be1fafa236ea67ced06917",
    "v1-everything": "a44b1c20968f2563ee52c074ac900dd1ed7b394d872de4470ac69d86324e78e1",
    "v1-exceptions": "0cc251f4f3c8915c62498df3f12eb96ac8e550e5a25ac0db57f1d52f808e5de3",
    "v1-files": "f128980bba8abc093487f36c96e7d9fef1046e504abc54c8275e3f234919e0ff",
    "v1-handed": "e524167a163e02c38edb62b08e5d19c3f4e95d0b71c87406d35d233c701828e8",
    "v1-module": "baf93f429ff19f2c9038b68fe3a81287f8ed1bd4ef5f287a31b3e6b1837ac35a",
    "v1-relayed": "acca0a1306da05f27d894711e5a5c3dded29f43f99859da440d174ee4602e614",
    "v1-running": "cadf9d6a9023081ad46734202de4e98167df92c49ffb5fbfb9967d76b9b1664e",
    "v1-wide": "57f5c73b145d1875cb0774a617f865386e0f24dceed2d562dd10e4c800a3f497",
    "v2-batches": "990ae55b1b1ff921b33e733b29aa877ade393326a5c86e09ee4e3aac2bfc0661",
    "v2-empty": "72be7fca7162767fb97e2076c022ef41784387107518cb9a887d70fa484668ae",
    "v2-everything-raw": "b4fe58859c7d774cc573b406b40d93780240a3f3a7671a8abfc04ab04b46b3e4",
    "v2-everything": "48f96f5c8f31fc7c781510056728b95da1ae97a9e0ba12525224eca6757065df",
    "v2-exceptions": "55b901e84dfb9bdb40970ca38e1173e54125936de8cc9b19617a07a5b2add43b",
    "v2-files": "1ba4883dcb40b3f64691ee985f23fbef801b47fdb0406d72b11bd4c956e6cee7",
    "v2-handed": "a0373768c803f2a7c4af604262f08fbac578c19fbd095fe7b734330bddb3e7a8",
    "v2-increment": "103744e0718f05157cffef48b844e57d5361ec75a68ee356dcf5985aa421fc84",
    "v2-module": "b3e06c14fcf5de079696898ee466fb368ab3e72aa99549fd7d9f8f7c04379160",
    "v2-relayed": "075577ea726673d22ea8a70e3bcac5ed97ea3ac2c4cb4132021f3a2335b61d72",
    "v2-running": "21913bb2fbc93a084958dd499e5d19af69861aff758417bb0b8121d27ee34651",
    "v2-wide": "57b490603837e9d5ba837e2ffcd410440f3d2ae70d6186d37eb61d3efd630c94",
}


def version_of(path: Path) -> int:
    return int(path.stem[1])


def base(root: bytes) -> ReadBase:
    """The snapshot that `v2-increment` was made against."""
    decoder = Decoder()
    decoder.feed((FOLDER / "v2-everything.bin").read_bytes())
    return ReadBase(decoder.root, decoder.finish(), decoder.trees, 0)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_frozen_sample_is_read(path: Path) -> None:
    data = path.read_bytes()
    assert sha256(data).hexdigest() == FROZEN[path.stem]
    decoder = Decoder(find_base=base)
    decoder.feed(data)
    snapshot = decoder.finish()
    assert plain(snapshot) == json.loads(path.with_suffix(".json").read_text())
    assert decoder.header is not None
    assert decoder.header.handed == (path.stem in HANDED)
    assert decoder.content == content_digest(snapshot, version=version_of(path))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_frozen_sample_is_what_is_written_today(path: Path) -> None:
    """There is one full snapshot of each state: header and root must come out the same.
    Compressed batches may differ from one release of zstd to the next."""
    data = path.read_bytes()
    decoder = Decoder(find_base=base)
    decoder.feed(data)
    handed = path.stem in HANDED
    version = version_of(path)
    again = b"".join(encode(decoder.finish(), compress=False, handed=handed, version=version))
    if version == 1:
        assert again[:64] == data[:64]
    else:
        assert again[-TRAILER.size :] == data[-TRAILER.size :]
    if version > 1 and "increment" not in path.stem:
        assert again[:64] == data[:64]
    if path.stem.endswith("-raw"):
        assert again == data


def test_all_samples_are_there() -> None:
    assert {path.stem for path in SAMPLES} == set(FROZEN)
    assert {path.stem for path in FOLDER.glob("v*.json")} == set(FROZEN)


def test_a_relayed_input_goes_on_where_it_is_resumed() -> None:
    """What was taken of it comes first, then the input of whoever resumes the program."""
    state = decode((FOLDER / "v1-relayed.bin").read_bytes()).wasi
    assert state is not None
    with Wasi.restore(state, stdin=b" more") as wasi:
        (stdin,) = wasi.capture()["descriptors"]
    assert stdin["unread"] == b"typed more" and "relayed" not in stdin


def test_a_cut_sample_is_not_read() -> None:
    for path in SAMPLES:
        decoder = Decoder(find_base=base)
        decoder.feed(path.read_bytes()[:-1])
        with pytest.raises(FormatError):
            decoder.finish()
