"""What a grid costs before it is run: passes, tokens, GPU hours on one H200 and disk."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from shiftdc_eval.grid.file import Cell
from shiftdc_eval.grid.passes import KINDS, Counted, Size, defense_of, passes
from shiftdc_eval.grid.tasks import leaf_tasks, task_config
from shiftdc_eval.tasks.catalogue import KNOWN

ANSWER_TOKENS = 512
"""New tokens of a task that sets none."""
CAPTION_TOKENS = 1024
"""New tokens of a caption by a defense without a setting for them."""
IN_NAME = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)b(?![a-z])", re.IGNORECASE)


@dataclass
class Cost:
    """Upper bounds of passes and tokens, and what these take; what is in `unknown` is not in it."""

    passes: Counter[str] = field(default_factory=Counter)
    """Prompts through the model, by kind."""
    prompt_tokens: float = 0
    new_tokens: float = 0
    hours: float = 0
    disk: float = 0
    """Bytes of weights and results."""
    unknown: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """In words."""
        listed = ", ".join(f"{self.passes[kind]:,} {kind}" for kind in KINDS)
        billions = rates()["measured_on"]["billions"]
        lines = [
            f"at most {self.passes.total():,} passes of one prompt each: {listed}",
            f"at most {_short(self.prompt_tokens)} prompt tokens, and {_short(self.new_tokens)} new ones where every "
            "answer and caption is as long as it may be",
            f"about {self.hours:,.1f} GPU hours for that on one H200 with engine=vllm: in proportion to new tokens and "
            f"parameters, from measurements at 128 and {billions:g} billion (docs/engines.md); without loading, "
            "fitting and judging, and longer for what vLLM does not run",
            f"disk: {self.disk / 1e9:,.1f} GB of weights and results, without the benchmarks' images",
        ]
        return [*lines, *(f"not in these numbers: {one}" for one in dict.fromkeys(self.unknown))]


def cost_of(cells: Sequence[Cell]) -> Cost:
    """The cost of these cells; passes that several share count once."""
    cost, seen, models = Cost(), set[Hashable](), set[str]()
    for cell in cells:
        model = cell.model.pretrained
        served = cell.model.engine == "server"
        billions = None if served else parameters(model)
        if served:
            cost.unknown.append(f"the time of {model}, which is behind a server, and what that charges")
        elif billions is None:
            cost.unknown.append(f"the time and weights of {model}, whose size its name does not say")
        elif model not in models:
            cost.disk += billions * 1e9 * (4 if cell.model.dtype == "float32" else 2)
        models.add(model)
        for one, size, limit in _counted(cell, cost):
            if one.shared is not None and (one.kind, limit, one.shared) in seen:
                continue
            seen.add((one.kind, limit, one.shared))
            _add(cost, cell, one, size, limit, billions or 0)
    return cost


def _counted(cell: Cell, cost: Cost) -> Iterator[tuple[Counted, Size, int]]:
    """Passes of a cell, the items that they are of, and the new tokens of an answer."""
    for task in leaf_tasks(cell.task):
        size, limit = size_of(task, cell.settings.limit), answer_tokens(task, cell.settings.gen_kwargs)
        if size is None:
            cost.unknown.append(f"the task {task}, whose items are not known beforehand")
            continue
        kept = rates()["disk"]
        cost.disk += (size.shown + size.plain) * (kept["answer"] + kept["token"] * limit)
        for one in passes(cell, size):
            yield (
                Counted(one.kind, one.count, None if one.shared is None else (task, one.shared)),
                size,
                limit,
            )


def _add(cost: Cost, cell: Cell, one: Counted, size: Size, limit: int, billions: float) -> None:
    """Add one kind of pass of one cell."""
    rate, base = rates()[one.kind], rates()["measured_on"]
    captions = getattr(defense_of(cell), "caption_max_new_tokens", CAPTION_TOKENS)
    new = {"answers": limit, "captions": int(captions or CAPTION_TOKENS), "activations": 0}[one.kind]
    length = new / rate["new_tokens"] if rate["new_tokens"] else 1
    images = 0 if one.kind == "activations" or not size.shown else base["image_tokens"]
    cost.passes[one.kind] += one.count
    cost.prompt_tokens += one.count * (base["prompt_tokens"] + images)
    cost.new_tokens += one.count * new
    computed = (rate["milliseconds"] - rate["fixed"]) * length * billions / base["billions"]
    cost.hours += one.count * (rate["fixed"] + computed) / 3.6e6


def size_of(task: str, limit: int | None) -> Size | None:
    """Items of a task with and without an image; None where that is not known."""
    info = KNOWN.get(task)
    count = info.size if info else None
    if count is None:
        settings = task_config(task).get("dataset_kwargs") or {}
        count = settings.get("n") if isinstance(settings.get("n"), int) else limit
    if count is None:
        return None
    count = count if limit is None else min(count, limit)
    return Size(0, count) if info is not None and not info.images else Size(count, 0)


def answer_tokens(task: str, given: dict[str, Any]) -> int:
    """New tokens that an answer may have."""
    settings = {**(task_config(task).get("generation_kwargs") or {}), **given}
    return int(settings.get("max_new_tokens", settings.get("max_gen_toks", ANSWER_TOKENS)))


def parameters(model: str) -> float | None:
    """Billions of parameters: from the table, else as the name says; None where neither does."""
    known = rates()["billions"].get(model)
    found = IN_NAME.search(Path(model).name.replace("_", "-"))
    return float(known) if known is not None else float(found[1]) if found else None


@cache
def rates() -> dict[str, Any]:
    """The measured rates, with their source in the file."""
    found: dict[str, Any] = yaml.safe_load((files("shiftdc_eval.grid") / "rates.yaml").read_text("utf-8"))
    return found


def _short(count: float) -> str:
    for size, unit in ((1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:,.0f}"
