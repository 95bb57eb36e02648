"""The defenses' prompts, stored in prompts.yaml."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import yaml


@cache
def _table() -> dict[str, dict[str, str]]:
    text = (files("shiftdc_eval.defenses") / "prompts.yaml").read_text(encoding="utf-8")
    table: dict[str, dict[str, str]] = yaml.safe_load(text)
    return table


def prompt(name: str, **values: str) -> str:
    """A prompt with its placeholders filled in one pass, so that inserted text may contain braces."""
    return re.sub(r"\{(\w+)\}", lambda place: values[place[1]], _table()[name]["text"])
