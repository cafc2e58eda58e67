"""Snippets of Python whose output must not depend on where they are interrupted."""

from __future__ import annotations

from pathlib import Path


def _snippets() -> dict[str, str]:
    found = {}
    text = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        name, _, code = line.partition("|")
        found[name] = code.replace("\\n", "\n").replace("<NL>", "\\n")
    return found


SNIPPETS = _snippets()
"""Code by name: the standard library, numpy, pandas, scipy, scikit-learn and matplotlib."""

SHORT = ("re", "recursion", "generators", "traceback")
"""Those of the short run."""
