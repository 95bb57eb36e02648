"""The page of samples as a reader's program sees it: with the HTML that its blocks of JSON hold."""

from __future__ import annotations

import json
import re
from typing import Any

BLOCK = re.compile(r'<script type="application/json" id="(\w+)">(.*?)</script>', re.DOTALL)


def blocks(page: str) -> dict[str, Any]:
    """Contents of a page's blocks by name."""
    return {name: json.loads(text) for name, text in BLOCK.findall(page)}


def fragments(page: str) -> list[tuple[str, str, str]]:
    """(head, request, answer) of every sample, as HTML."""
    found = blocks(page)
    parts = [rows for name, rows in found.items() if name.startswith("part")]
    return [(head, found["asked"][asked], answer) for rows in parts for head, asked, answer in rows]


def whole(page: str) -> str:
    """The page with all samples in place of the first ones."""
    start, end = page.index('<main id="main">'), page.index("</main>")
    articles = [
        f"<article>{head}<div>{asked}</div><div>{answer}</div></article>"
        for head, asked, answer in fragments(page)
    ]
    return BLOCK.sub("", page[:start] + '<main id="main">' + "".join(articles) + page[end:])
