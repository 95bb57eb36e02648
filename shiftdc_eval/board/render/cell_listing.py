"""The page's list of cells: what a model's or a configuration's cells share is said once, and so is their command."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from shiftdc_eval.board.draws import DRAW, draw_of, is_drawn, settings_but_draw
from shiftdc_eval.board.index import Index, IndexCell
from shiftdc_eval.board.model_kinds import MARKS, Mark
from shiftdc_eval.board.render.judge_notes import usd


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

    id: str
    mark: Mark
    said: str
    """What is true of all of them."""
    configurations: list[Configuration]

    @property
    def name(self) -> str:
        """The model's id, with its mark: a model of one id may have cells with a mark and cells without."""
        return f"{self.id} · {self.mark}" if self.mark else self.id


def listed(index: Index, shown: Collection[int]) -> list[Model]:
    """The shown cells: models without a mark first, then by name, by configuration, by task and seed."""
    models: dict[tuple[int, str], list[int]] = defaultdict(list)
    marks: list[Mark] = ["", *MARKS]
    for number in sorted(
        shown,
        key=lambda number: (
            index.cells[number].task,
            index.cells[number].seed,
            draw_of(index.cells[number]),
            number,
        ),
    ):
        cell = index.cells[number]
        models[marks.index(cell.mark), cell.model].append(number)
    return [_model(index.cells, name, marks[mark], models[mark, name]) for mark, name in sorted(models)]


def links(cells: Sequence[IndexCell], numbers: Sequence[int]) -> tuple[str, list[tuple[int, str, str]]]:
    """How a row leads to each of its cells: by the draw of a random direction, by seed, or by both.

    Returns:
        What tells the cells apart, and (number, its value, whose value it is) of each cell, in order of draw and seed.
    """
    ordered = sorted(numbers, key=lambda number: (draw_of(cells[number]), cells[number].seed, number))
    told = {
        DRAW: [str(cells[number].settings.get(DRAW)) for number in ordered],
        "seed": [str(cells[number].seed) for number in ordered],
    }
    varying = {name: values for name, values in told.items() if len(set(values)) > 1}
    values = ["/".join(parts) for parts in zip(*varying.values(), strict=True)]
    what = "/".join(varying)
    if len(set(values)) < len(ordered):
        what, values = "cell", [str(place) for place in range(1, len(ordered) + 1)]
    return what, [
        (number, value, _whose(cells[number])) for number, value in zip(ordered, values, strict=True)
    ]


def _whose(cell: IndexCell) -> str:
    """A cell's defense, without its draw where that is all its label says."""
    return cell.defense.removesuffix(f" ({DRAW}={cell.settings.get(DRAW)})")


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
    if settings_but_draw(cell):
        found.append(f"settings {_said(settings_but_draw(cell))}")
    if is_drawn(cell):
        found.append(f"{DRAW}={json.dumps(cell.settings[DRAW])}")
    if cell.ablation:
        found.append(cell.ablation)
    if not cell.recorded:
        found.append("no run record")
    return list(dict.fromkeys([*found, *cell.notes]))


def _model(cells: Sequence[IndexCell], name: str, mark: Mark, numbers: Sequence[int]) -> Model:
    own = {number: facts(cells[number]) for number in numbers}
    shared = _shared(list(own.values()))
    families: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number in numbers:
        families[_identity(cells[number])].append(number)
    rest = {number: _without(found, shared) for number, found in own.items()}
    return Model(
        name,
        mark,
        "; ".join(shared),
        [
            _configuration(cells, {number: rest[number] for number in families[key]})
            for key in sorted(families)
        ],
    )


def _identity(cell: IndexCell) -> tuple[str, ...]:
    """What makes a configuration of a model, in the order they are sorted by."""
    # draws of a random direction are one configuration, as seeds are
    label, system = (cell.defense_name, "") if is_drawn(cell) else (cell.defense, cell.system)
    settings = json.dumps(settings_but_draw(cell), sort_keys=True)
    arithmetic = (cell.dtype, cell.attention, cell.engine)
    return (label, settings, cell.model_revision, cell.model_note, cell.ablation, *arithmetic, system)


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
