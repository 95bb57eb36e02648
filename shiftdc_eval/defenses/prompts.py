"""The defenses' prompts and word lists, stored in YAML files of this folder."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@cache
def table(file: str) -> dict[str, Any]:
    """The content of a YAML file of this folder."""
    text = (files("shiftdc_eval.defenses") / file).read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def prompt(name: str, **values: str) -> str:
    """A prompt with its placeholders filled in one pass, so that inserted text may contain braces."""
    return re.sub(r"\{(\w+)\}", lambda place: values[place[1]], table("prompts.yaml")[name]["text"])
