"""Takes files from outside `docs/` into the site and turns links to them into links within the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "shiftdc_eval/backbones/bundled/smol/README.md": "cards/smol.md",
    "shiftdc_eval/backbones/bundled/smol/training.json": "cards/smol_training.json",
    "shiftdc_eval/backbones/bundled/toy/README.md": "cards/toy.md",
}
"""File of the repository -> file of the site."""
FOLDERS = ("leaderboards", "training/smol/measured")
"""Folders that the site holds as they are."""
LINK = re.compile(r"(\]\()([^)\s#]+)")
log = get_plugin_logger("site_hooks")


def on_files(files: Files, config: Any) -> Files:
    """Adds the files and folders."""
    paths = {ROOT / source: target for source, target in FILES.items()}
    for folder in FOLDERS:
        found = (path for path in (ROOT / folder).rglob("*") if path.is_file())
        paths |= {path: path.relative_to(ROOT).as_posix() for path in found}
    for path, target in sorted(paths.items()):
        files.append(File.generated(config, target, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrites the relative links that leave `docs/`, and those of the pages that come from elsewhere."""
    sources = {target: source for source, target in FILES.items()}
    source = ROOT / sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    if page.file.src_uri == "leaderboards/leaderboard.md":
        page.meta["search"] = {"exclude": True}
        return markdown.replace("\n\n", "\n\n[Sort and filter it](index.html).\n\n", 1)

    def rewritten(match: re.Match[str]) -> str:
        if re.match(r"[a-z]+:", match[2]):
            return match[0]
        target = (source.parent / match[2]).resolve().relative_to(ROOT).as_posix()
        within = FILES.get(target, target.removeprefix("docs/"))
        if within == target and not target.startswith(FOLDERS):
            log.warning("%s links to %s, which the site does not hold", page.file.src_uri, target)
        depth = page.file.src_uri.count("/")
        return match[1] + "../" * depth + within

    return LINK.sub(rewritten, markdown)
