"""The reference of the library has every public name, and the site every page."""

from __future__ import annotations

import re
from pathlib import Path

import wasmsr


def test_every_public_name_is_in_the_reference(root: Path) -> None:
    text = (root / "docs" / "api.md").read_text(encoding="utf-8")
    found = re.findall(r"^::: wasmsr\.(\w+)$", text, re.MULTILINE)
    assert len(found) == len(set(found))
    assert set(found) == set(wasmsr.__all__) - {"__version__", "snapshot"}


def test_every_document_is_in_the_site(root: Path) -> None:
    site = (root / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    pages = set(re.findall(r"([\w/-]+\.md)$", site, re.MULTILINE))
    top = {path.name.lower() for path in root.glob("*.md")} - {"readme.md"}
    documents = {str(path.relative_to(root / "docs")) for path in (root / "docs").rglob("*.md")}
    assert pages == documents | top | {"index.md"}
