"""A page that a generator makes: written, or compared with what is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def write_or_check(page: Path, text: str, generator: str, words: Sequence[str]) -> int:
    """Write a page, or with `--check` compare it.

    Args:
        page: Its file.
        text: Its content.
        generator: What `python -m` runs to write it.
        words: The arguments of the command.

    Returns:
        The exit code: 1 if the page is out of date.
    """
    if "--check" in words:
        if page.exists() and page.read_text(encoding="utf-8") == text:
            return 0
        print(f"{page.name} is out of date: python -m {generator}")
        return 1
    page.write_text(text, encoding="utf-8")
    print(f"wrote {page.name}")
    return 0
