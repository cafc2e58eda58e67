"""The hooks of mkdocs.yml: pages whose source is not in docs/, and links between pages.

The documents are written for the tree: README.md and others are at its top, and links lead to files
of the source. In the site, a link to a document leads to its page, and a link to any other file is
the file's name. A link to nothing is left as it is, so that `mkdocs build --strict` reports it.
"""

from __future__ import annotations

import posixpath
import re
from html import escape
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent

TOP = {
    "index.md": "README.md",
    **{
        f"{name.lower()}.md": f"{name}.md"
        for name in (
            "ARCHITECTURE",
            "CHANGELOG",
            "CONTRIBUTING",
            "RATIONALE",
            "RELEASING",
            "SECURITY",
        )
    },
}
"""Pages whose source is at the top of the tree."""

FENCE = re.compile(r"^( *```\w+) process$", re.MULTILINE)
CODE = re.compile(r"(^ *```.*?^ *```$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[((?:[^\]\\]|\\.)*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose source is at the top of the tree."""
    for page, source in TOP.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def bars(match: re.Match[str]) -> str:
    """Return a code span with escaped bars as HTML."""
    return f"<code>{escape(match[1].replace(chr(92) + '|', '|')).replace('|', '&#124;')}</code>"


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn the links of a page from files of the tree into pages of the site."""
    at = page.file.src_uri
    source = TOP.get(at, f"docs/{at}")
    pages = {path: name for name, path in TOP.items()}

    def turned(match: re.Match[str]) -> str:
        image, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        if "://" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path in pages or (path.startswith("docs/") and path.endswith((".md", ".svg"))):
            uri = pages.get(path, path.removeprefix("docs/"))
            return (
                f"{image}[{text}]({posixpath.relpath(uri, posixpath.dirname(at) or '.')}{anchor})"
            )
        if (ROOT / path).exists():
            return text if path in text else f"{text} (`{path}`)"
        return match[0]

    # GitHub takes `\|` in the code of a table for a bar; Python-Markdown shows the backslash.
    markdown = re.sub(r"`([^`\n]*\\\|[^`\n]*)`", bars, FENCE.sub(r"\1", markdown))
    parts = CODE.split(markdown)
    # A link may have code in its text, so the pieces between code are not enough: hide code first.
    hidden = "".join(f"\0{n}\0" if n % 2 else part for n, part in enumerate(parts))
    return re.sub("\0(\\d+)\0", lambda m: parts[int(m[1])], LINK.sub(turned, hidden))
