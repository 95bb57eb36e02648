"""What a result must say about where it was made. No secret gets in: only named facts are collected."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from shiftdc_eval.core.environment import setting

PACKAGES = ("shiftdc-eval", "lmms-eval", "torch", "transformers", "tokenizers", "pillow", "datasets")
SECRET = re.compile(
    r"(?i)(\b[\w-]*(?:api[_-]?key|token|secret|password)\b['\"]?\s*[=:]\s*)[^\s,]+|\b(?:sk-|hf_)[\w-]{8,}"
)
USER = re.compile(r"(?<=://)[^\s/@'\"]+(?=@)")
"""User name and password in an address."""
SECRET_NAME = re.compile(r"(?i)key|token|secret|password")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change an answer."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_state() -> str:
    """Commit of the checkout this package runs from, with `+dirty` when files differ; empty outside one."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return ""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:  # git is not installed
            return ""
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    return f"{commit}+dirty" if commit and git("status", "--porcelain", "-uno") else commit


def command_line(arguments: Sequence[str] | None = None) -> str:
    """This process's command, with the program's folder and anything that looks like a secret removed.

    `SHIFTDC_COMMAND` holds the command that a front end was called with.
    """
    if arguments is None and (given := setting("SHIFTDC_COMMAND")):
        return redact(given)
    program, *rest = sys.argv if arguments is None else arguments
    path = Path(program)
    name = path.parent.name.replace("_", "-") if path.name == "__main__.py" else path.name
    return redact(shlex.join([name, *rest]))


def redact(text: str) -> str:
    """Replace keys and tokens by `***`: what looks like one, and the value of every variable named like one."""
    for name, value in os.environ.items():
        if len(value) >= 8 and SECRET_NAME.search(name):
            text = text.replace(value, "***")
    return SECRET.sub(lambda match: f"{match[1] or ''}***", USER.sub("***", text))
