"""A headless browser for the pages."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def dump_dom(chromium: str, page: Path, *flags: str) -> str:
    """The document after its scripts have run."""
    return _run(chromium, page, "--dump-dom", "--virtual-time-budget=3000", *flags)


def screenshot(chromium: str, page: Path, picture: Path, width: int, height: int, *flags: str) -> None:
    """A picture of the page."""
    _run(chromium, page, f"--screenshot={picture}", f"--window-size={width},{height}", *flags)


def without_policy(page: Path, script: str) -> Path:
    """The page without its policy, and a script that plays the reader and writes what it sees to the title."""
    text = page.read_text(encoding="utf-8").replace("Content-Security-Policy", "X-Nothing")
    driven = page.with_name("driven.html")
    driven.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    return driven


def title(document: str) -> str:
    """A document's title."""
    found = re.search(r"<title>(.*?)</title>", document, re.DOTALL)
    assert found
    return found[1]


def widths_on_a_phone(chromium: str, page: Path) -> tuple[int, int]:
    """Width of a phone's window in CSS pixels, and how wide the page is in it."""
    script = "document.title = [innerWidth, document.documentElement.scrollWidth].join(' ')"
    driven = without_policy(page, script)
    frame = page.with_name("frame.html")
    inner = driven.read_text(encoding="utf-8").replace("&", "&amp;").replace('"', "&quot;")
    frame.write_text(
        f'<!doctype html><title>x</title><iframe srcdoc="{inner}" width="390" height="800" style="border:0"></iframe>'
        "<script>onload = () => { document.title = frames[0].document.title; }</script>",
        encoding="utf-8",
    )
    width, wide = map(int, title(dump_dom(chromium, frame)).split())
    return width, wide


def brightness(chromium: str, page: Path, folder: Path) -> tuple[float, float]:
    """Mean grey level of the page in light and in dark; asserts that neither picture is blank."""
    means = []
    for scheme in (1, 0):
        picture = folder / f"{scheme}.png"
        screenshot(chromium, page, picture, 1000, 800, f"--blink-settings=preferredColorScheme={scheme}")
        with Image.open(picture) as image:
            grey = image.convert("L")
            low, high = grey.getextrema()
            assert high - low > 150
            histogram = grey.histogram()
            means.append(sum(level * count for level, count in enumerate(histogram)) / sum(histogram))
    return means[0], means[1]


def _run(chromium: str, page: Path, *flags: str) -> str:
    with tempfile.TemporaryDirectory() as profile:
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
        done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    return done.stdout.decode("utf-8", "replace")
