"""A headless browser for the pages."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

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


def _run(chromium: str, page: Path, *flags: str) -> str:
    with tempfile.TemporaryDirectory() as profile:
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
        done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    return done.stdout.decode("utf-8", "replace")
