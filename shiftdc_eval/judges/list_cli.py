"""`shiftdc-eval judges`: every judge with its verdict and what it asks; `judges NAME`: source and settings of one."""

from __future__ import annotations

import argparse
from typing import Any

from shiftdc_eval.core.entry_points import clash, distribution, installed
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.terminal import say
from shiftdc_eval.core.validation import nearest
from shiftdc_eval.judges.installed import GROUP
from shiftdc_eval.judges.keyword import load_list
from shiftdc_eval.judges.registry import JUDGES, LOCAL_MODELS
from shiftdc_eval.judges.rubric import FOLDER, IMAGES, Rubric, load_rubric

VARIANTS = ("_guarded", "_tolerant")
"""Endings of judges that ask by a rubric in another way."""
SERVED, LOCAL = "a served model", "a local model"
OPEN = {
    "keyword": ("refusal", "phrases, rules", "-", "the file you name (list=FILE.yaml)"),
    "llm": ("the rubric's", SERVED, "the rubric's", "the file you name (rubric=FILE.yaml)"),
    "local_classifier": ("harm", LOCAL, "request", "the model you name"),
    "local_reward": ("score", LOCAL, "request", "the model you name"),
    "local_rubric": ("the rubric's", LOCAL, "the rubric's", "the rubric and model you name"),
}
"""Judges that bring no text of their own -> verdict, what is asked, what it is shown besides the answer, source."""


def configure(parser: argparse.ArgumentParser) -> None:
    """At most a name."""
    parser.description = __doc__
    parser.add_argument("name", nargs="?", metavar="NAME", help="show source and settings of this judge")


def main(args: argparse.Namespace) -> int:
    """Print the table, or one judge.

    Raises:
        ConfigError: an unknown name.
    """
    if args.name is not None:
        for title, text in card(args.name).items():
            if text:
                say(f"{title}: {text}")
        return 0
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title="Judges (--judge NAME; source and settings: shiftdc-eval judges NAME)",
        box=box.SIMPLE,
        pad_edge=False,
        caption="_guarded: judged texts set apart; _tolerant: replies read less strictly",
        caption_justify="left",
    )
    for column in ("name", "verdict", "asks", "shown besides the answer"):
        table.add_column(column, no_wrap=column == "name", overflow="fold")
    for name in JUDGES:
        table.add_row(name, *facts(name)[:3])
    for name, entries in installed(GROUP).items():
        refused = clash(f"judge {name!r}", entries, taken=name in JUDGES)
        # nothing of a package is imported for a table
        table.add_row(name, "its own", f"refused: {refused}" if refused else distribution(entries[0]), "")
    Console().print(table)
    return 0


def card(name: str) -> dict[str, str]:
    """What there is to say of one judge, by title; empty where there is nothing.

    Raises:
        ConfigError: no such judge, or one of an installed package that is refused.
    """
    offers = installed(GROUP)
    if name in offers:
        if refused := clash(f"judge {name!r}", offers[name], taken=name in JUDGES):
            raise ConfigError(refused)
        return {"installed with": distribution(offers[name][0])}
    if name not in JUDGES:
        known = [*JUDGES, *offers]
        raise ConfigError(f"no judge {name!r}{nearest(name, known)}; `shiftdc-eval judges` lists them")
    verdict, asks, shown, source = facts(name)
    found = {"verdict": verdict, "asks": asks, "is shown besides the answer": shown, "source": source}
    family, _, text = name.partition("_")
    if name not in OPEN:
        about = load_list(text) if family == "keyword" else _rubric(name).model_dump()
        found["notes"] = _line(about.get("notes") or "")
        found["further columns from the same reply"] = ", ".join(
            f"{name}_{one}" for one in about.get("readings", ())
        )
    found["settings"] = ", ".join(_settings(name))
    return found


def facts(name: str) -> tuple[str, str, str, str]:
    """Verdict, what is asked, what it is shown besides the answer, and source of a judge of this package."""
    if name in OPEN:
        return OPEN[name]
    family, _, text = name.partition("_")
    if family == "keyword":
        found = load_list(text)
        asks = "rules" if found["match"] == "rules" else "phrases"
        return "refusal", asks, "-", _line(found["source"])
    rubric = _rubric(name)
    shown: list[str] = list(rubric.needs)
    if any(template.contextual for template in rubric.templates):
        shown.append("any context")
    if rubric.sees_image and "image" not in shown:
        shown.append("image")
    said = "image alone" if rubric.about == "image" else ", ".join(shown) or "-"
    return rubric.kind, SERVED if family == "llm" else LOCAL, said, _line(rubric.source)


def _rubric(name: str) -> Rubric:
    text = name.partition("_")[2]
    for ending in VARIANTS:
        text = text.removesuffix(ending)
    return load_rubric(text, IMAGES if (IMAGES / f"{text}.yaml").is_file() else FOLDER)


def _settings(name: str) -> list[str]:
    """Settings of a spec, with their defaults where they have one."""
    from dataclasses import MISSING, fields

    from shiftdc_eval.core.api.endpoint import Endpoint
    from shiftdc_eval.judges.factory import Harm, LLMSettings, Shown
    from shiftdc_eval.judges.local.model import LocalModel

    family = name.partition("_")[0]
    own = {"keyword": ["list=FILE"], "llm": ["rubric=FILE"], "local_rubric": ["rubric=FILE"]}.get(name, [])
    kinds: list[type[Any]] = []
    if family == "keyword":
        rules = name == "keyword" or load_list(name.partition("_")[2])["match"] == "rules"
        own += ["languages", *(["counter_speech=refused"] if rules else [])]
    elif family == "llm":
        own += ["model", "base_url"]
        kinds = [Endpoint, LLMSettings]
    else:
        own += [f"model={LOCAL_MODELS[name]}" if name in LOCAL_MODELS else "model"]
        own_kinds: dict[str, list[type[Any]]] = {"local_classifier": [Harm, Shown], "local_reward": [Shown]}
        kinds = [LocalModel, *own_kinds.get(name, [])]
    for one in (one for kind in kinds for one in fields(kind) if one.name not in ("id", "model", "base_url")):
        plain = one.default in (MISSING, None, "")
        own.append(one.name if plain else f"{one.name}={one.default}")
    return [*own, "as"]


def _line(text: str) -> str:
    return " ".join(text.split())
