"""The page's list of cells: what a model's or a configuration's cells share is said once, and so is their command."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from shiftdc_eval.board.index import Index, IndexCell
from shiftdc_eval.board.judging import usd
from shiftdc_eval.board.marks import MARKS

DRAW = "random_seed"
"""The setting that draws a random direction; null where none is drawn."""


@dataclass(frozen=True)
class CellLine:
    """One cell below its configuration."""

    number: int
    """Position in the index's cells."""
    cell: IndexCell
    said: str
    """What is true of this cell and not of every other one of the configuration."""


@dataclass(frozen=True)
class Command:
    """One command and the cells it reproduces."""

    before: str
    """The command up to the name of its task; all of it where `after` is None."""
    after: str | None
    """What follows the name of the task; None where the command is written out."""
    lines: list[CellLine]


@dataclass(frozen=True)
class Configuration:
    """One model with one defense, its settings and its arithmetic, over tasks and seeds."""

    defense: str
    said: str
    """What is true of all its cells and not of every cell of the model."""
    commands: list[Command]


@dataclass(frozen=True)
class Model:
    """The cells of one model."""

    name: str
    said: str
    """What is true of all of them."""
    configurations: list[Configuration]


def listed(index: Index, shown: Collection[int]) -> list[Model]:
    """The shown cells: models without a mark first, then by name, by configuration, by task and seed."""
    models: dict[tuple[int, str], list[int]] = defaultdict(list)
    marks = ["", *MARKS]
    for number in sorted(
        shown, key=lambda number: (index.cells[number].task, index.cells[number].seed, number)
    ):
        cell = index.cells[number]
        models[marks.index(cell.mark), cell.model].append(number)
    return [_model(index.cells, name, models[mark, name]) for mark, name in sorted(models)]


def around_task(command: str, task: str) -> tuple[str, str] | None:
    """The command before and after its task; None unless `--tasks` names this task alone, and once."""
    # whole words only: figstep is no part of figstep_benign, nor of figstep,figstep_benign
    found = list(re.finditer(rf"(?<!\S)--tasks {re.escape(task)}(?!\S)", command))
    if len(found) != 1:
        return None
    end = found[0].end()
    return command[: end - len(task)], command[end:]


def facts(cell: IndexCell) -> list[str]:
    """What a cell says of itself beside its numbers, seconds and tokens."""
    found = [f"revision {cell.model_revision[:12]}" if cell.model_revision else "revision unknown"]
    found.append(cell.dtype or "dtype unknown")
    if cell.attention:
        found.append(f"{cell.attention} attention")
    if cell.engine:
        found.append(f"{cell.engine} engine")
    if cell.batch_sizes:
        found.append(f"batches of {' and '.join(map(str, cell.batch_sizes))}")
    found.append(f"on {cell.hardware or 'unknown hardware'}")
    if cell.generation:
        found.append(f"generation {_said(cell.generation)}")
    if cell.price is not None:
        found.append(f"{cell.price:g} USD")
    found += [
        f"judged by {measure.judge} for {usd(measure.cost.price)}"
        for measure in cell.measures
        if measure.cost is not None and measure.cost.tokens_in != 0
    ]
    if cell.model_note:
        found.append(cell.model_note)
    if _settings(cell):
        found.append(f"settings {_said(_settings(cell))}")
    if _drawn(cell):
        found.append(f"random_seed={json.dumps(cell.settings[DRAW])}")
    if cell.ablation:
        found.append(cell.ablation)
    if not cell.recorded:
        found.append("no run record")
    return list(dict.fromkeys([*found, *cell.notes]))


def _model(cells: Sequence[IndexCell], name: str, numbers: Sequence[int]) -> Model:
    own = {number: facts(cells[number]) for number in numbers}
    shared = _shared(list(own.values()))
    families: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number in numbers:
        families[_identity(cells[number])].append(number)
    rest = {number: _without(found, shared) for number, found in own.items()}
    return Model(
        name,
        "; ".join(shared),
        [
            _configuration(cells, {number: rest[number] for number in families[key]})
            for key in sorted(families)
        ],
    )


def _identity(cell: IndexCell) -> tuple[str, ...]:
    """What makes a configuration of a model, in the order they are sorted by."""
    # draws of a random direction are one configuration, as seeds are
    label, system = (cell.defense_name, "") if _drawn(cell) else (cell.defense, cell.system)
    settings = json.dumps(_settings(cell), sort_keys=True)
    return (label, settings, cell.model_revision, cell.model_note, cell.ablation, system)


def _drawn(cell: IndexCell) -> bool:
    return cell.settings.get(DRAW) is not None


def _settings(cell: IndexCell) -> dict[str, JsonValue]:
    """The settings, without the seed of a direction that was drawn."""
    return {name: value for name, value in cell.settings.items() if name != DRAW or not _drawn(cell)}


def _configuration(cells: Sequence[IndexCell], own: Mapping[int, list[str]]) -> Configuration:
    shared = _shared(list(own.values()))
    lines: dict[tuple[str, str | None], list[CellLine]] = defaultdict(list)
    for number, found in own.items():
        cell = cells[number]
        around = around_task(cell.command, cell.task) or (cell.command, None)
        lines[around].append(CellLine(number, cell, "; ".join(_without(found, shared))))
    commands = [Command(before, after, found) for (before, after), found in lines.items()]
    labels = sorted({cells[number].defense for number in own})
    label = labels[0] if len(labels) == 1 else cells[next(iter(own))].defense_name
    return Configuration(label, "; ".join(shared), commands)


def _shared(lists: Sequence[list[str]]) -> list[str]:
    """What stands in every list, in the order of the first."""
    common = set(lists[0]).intersection(*lists[1:])
    return [fact for fact in lists[0] if fact in common]


def _without(found: Sequence[str], said: Collection[str]) -> list[str]:
    return [fact for fact in found if fact not in said]


def _said(settings: Mapping[str, JsonValue]) -> str:
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in sorted(settings.items()))
