"""Pandoc 3, compiled from Haskell with the old exceptions and SIMD, 58 MB of module and a table of
600,000 functions: Markdown to HTML, whole and in legs, each a process of its own. Wasmtime does not
take its exceptions, so what is right is written here."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest

from tests.lockstep import Pair
from tests.real import fetch
from tests.real.legs import files_of
from tests.real.pandoc import begin, leg
from wasmsr import Finished, Module, Paused, Snapshot

STOPS = 10
CHAPTERS = 40
CHAPTER = """\
# Chapter {n}

Some *emphasis*, `code` and a [link](http://example.com/{n}).

- {n} apples
- *no* pears

| name | number |
|------|-------:|
| one  | {n}    |

"""
HTML = """\
<h1 id="chapter-{n}">Chapter {n}</h1>
<p>Some <em>emphasis</em>, <code>code</code> and a <a
href="http://example.com/{n}">link</a>.</p>
<ul>
<li>{n} apples</li>
<li><em>no</em> pears</li>
</ul>
<table>
<thead>
<tr>
<th>name</th>
<th style="text-align: right;">number</th>
</tr>
</thead>
<tbody>
<tr>
<td>one</td>
<td style="text-align: right;">{n}</td>
</tr>
</tbody>
</table>
"""
MARKDOWN = "".join(CHAPTER.format(n=n) for n in range(CHAPTERS))
OPTIONS: dict[str, object] = {"from": "markdown", "to": "html"}


@pytest.fixture(scope="module")
def file() -> Path:
    try:
        return fetch.pandoc()
    except fetch.Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.full
@pytest.mark.timeout(1500)
def test_markdown_to_html_in_legs(file: Path, tmp_path: Path) -> None:
    module = Module.from_file(file)
    assert module.needed_features == {"exceptions", "legacy-exceptions", "simd"}
    with begin(module, tmp_path / "whole", MARKDOWN, OPTIONS) as store:
        assert isinstance(store.run(fuel=10**15), Finished)
        executed = store.executed
    assert executed is not None and executed > 100_000_000
    result = {path.name: path.read_text() for path in (tmp_path / "whole").iterdir()}
    assert result["stderr"] == ""
    assert result["stdout"] == "".join(HTML.format(n=n) for n in range(CHAPTERS))

    folder, saved = tmp_path / "legs", tmp_path / "snapshot.bin"
    cuts = sorted(random.Random(4).sample(range(1, executed * 99 // 100), STOPS))
    with begin(module, folder, MARKDOWN, OPTIONS) as store:
        assert store.run(fuel=cuts[0]) == Paused("fuel")
        Snapshot.of(store).save(saved)
    for start, cut in pairwise(cuts):
        assert leg(file, folder, saved, cut - start) == "Paused"
    assert leg(file, folder, saved, 0) == "Finished"
    assert {path.name: path.read_text() for path in folder.iterdir()} == result


@pytest.mark.full
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("counted", [False, True], ids=["plain", "counted"])
def test_both_codes_agree(file: Path, counted: bool, tmp_path: Path) -> None:
    module = Module.from_file(file)
    stores = [
        begin(module, tmp_path / name, CHAPTER.format(n=1), OPTIONS, deterministic=True)
        for name in ("fast", "precise")
    ]
    pair = Pair(*stores, counted=counted, memories=200)
    assert isinstance(pair.run(most=20_000, every=250, seed=5), Finished)
    assert pair.compared > 3000
    assert pair.same_snapshots()
    assert (tmp_path / "fast" / "stdout").read_text() == HTML.format(n=1)
    assert files_of(tmp_path / "fast") == files_of(tmp_path / "precise")
