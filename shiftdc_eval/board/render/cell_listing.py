"""The page's list of cells: facts and commands that several cells share are printed once."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import JsonValue

from shiftdc_eval.board.defense_labels import DRAW, draw_of, is_drawn, settings_but_draw
from shiftdc_eval.board.index import Index, IndexCell
from shiftdc_eval.board.model_kinds import MARKS, Mark
from shiftdc_eval.board.render.judge_notes import usd


class CellLine(NamedTuple):
    """One cell below its configuration."""

    number: int
    """Position in the index's cells."""
    cell: IndexCell
    said: str
    """Facts that not all cells of the configuration share."""


class Command(NamedTuple):
    """One command and the cells it reproduces."""

    before: str
    """The command up to the name of its task; all of it where `after` is None."""
    after: str | None
    """The rest after the name of the task; None where the command has no placeholder."""
    lines: list[CellLine]


class Configuration(NamedTuple):
    """One model with one defense, its settings and its arithmetic, over tasks and seeds."""

    defense: str
    said: str
    """Facts that all its cells share and not all cells of the model."""
    commands: list[Command]


class Model(NamedTuple):
    """The cells of one model of one kind."""

    name: str
    """The model's id, with its mark: one id may have marked and unmarked cells."""
    said: str
    """Facts that all its cells share."""
    configurations: list[Configuration]


def listed(index: Index) -> list[Model]:
    """The cells: unmarked models first, then by name, configuration, task and seed."""
    cells, marks = index.cells, ["", *MARKS]
    models: dict[tuple[int, str], list[int]] = defaultdict(list)
    for number in sorted(
        range(len(cells)), key=lambda n: (cells[n].task, cells[n].seed, draw_of(cells[n]), n)
    ):
        models[marks.index(cells[number].mark), cells[number].model].append(number)
    return [_model(cells, key[1], models[key]) for key in sorted(models)]


def links(cells: Sequence[IndexCell], numbers: Sequence[int]) -> tuple[str, list[tuple[int, str, str]]]:
    """Links from a row to each of its cells: by seed of the random direction, by seed, or by both.

    Returns:
        What distinguishes the cells, and (number, its value, defense) of each cell, in order of draw and seed.
    """
    ordered = sorted(numbers, key=lambda number: (draw_of(cells[number]), cells[number].seed, number))
    known = {
        DRAW: [str(cells[number].settings.get(DRAW)) for number in ordered],
        "seed": [str(cells[number].seed) for number in ordered],
    }
    varying = {name: values for name, values in known.items() if len(set(values)) > 1}
    values = ["/".join(parts) for parts in zip(*varying.values(), strict=True)]
    what = "/".join(varying)
    if len(set(values)) < len(ordered):
        what, values = "cell", [str(place) for place in range(1, len(ordered) + 1)]
    found = []
    for number, value in zip(ordered, values, strict=True):
        cell = cells[number]
        found.append((number, value, cell.defense.removesuffix(f" ({DRAW}={cell.settings.get(DRAW)})")))
    return what, found


def around_task(command: str, task: str) -> tuple[str, str] | None:
    """The command before and after its task; None unless `--tasks` names only this task, and once."""
    # whole words only: figstep is no part of figstep_benign, nor of figstep,figstep_benign
    found = list(re.finditer(rf"(?<!\S)--tasks {re.escape(task)}(?!\S)", command))
    if len(found) != 1:
        return None
    end = found[0].end()
    return command[: end - len(task)], command[end:]


def facts(cell: IndexCell) -> list[str]:
    """Facts about a cell other than results, seconds and tokens."""
    settings = settings_but_draw(cell)
    found = [
        f"revision {cell.model_revision[:12]}" if cell.model_revision else "revision unknown",
        cell.dtype or "dtype unknown",
        f"{cell.attention} attention" if cell.attention else "",
        f"{cell.engine} engine" if cell.engine else "",
        f"batches of {' and '.join(map(str, cell.batch_sizes))}" if cell.batch_sizes else "",
        f"on {cell.hardware or 'unknown hardware'}",
        f"generation {_text(cell.generation)}" if cell.generation else "",
        "" if cell.price is None else f"{cell.price:g} USD",
        *(
            f"judged by {measure.judge} for {usd(measure.cost.price)}"
            for measure in cell.measures
            if measure.cost is not None and measure.cost.tokens_in != 0
        ),
        cell.model_note,
        f"settings {_text(settings)}" if settings else "",
        f"{DRAW}={json.dumps(cell.settings[DRAW])}" if is_drawn(cell) else "",
        cell.ablation,
        "" if cell.recorded else "no run record",
        *cell.notes,
    ]
    return [fact for fact in dict.fromkeys(found) if fact]


def _model(cells: Sequence[IndexCell], name: str, numbers: Sequence[int]) -> Model:
    shared, own = _split({number: facts(cells[number]) for number in numbers})
    families: dict[tuple[str, ...], dict[int, list[str]]] = defaultdict(dict)
    for number, rest in own.items():
        families[_identity(cells[number])][number] = rest
    mark: Mark = cells[numbers[0]].mark
    configurations = [_configuration(cells, families[key]) for key in sorted(families)]
    return Model(f"{name} · {mark}" if mark else name, shared, configurations)


def _identity(cell: IndexCell) -> tuple[str, ...]:
    """Distinguishes the configurations of a model, and orders them."""
    # seeds of a random direction are one configuration, as seeds of sampling are
    label, system = (cell.defense_name, "") if is_drawn(cell) else (cell.defense, cell.system)
    settings = json.dumps(settings_but_draw(cell), sort_keys=True)
    arithmetic = (cell.dtype, cell.attention, cell.engine)
    return (label, settings, cell.model_revision, cell.model_note, cell.ablation, *arithmetic, system)


def _configuration(cells: Sequence[IndexCell], own: Mapping[int, list[str]]) -> Configuration:
    shared, rest = _split(own)
    lines: dict[tuple[str, str | None], list[CellLine]] = defaultdict(list)
    for number, found in rest.items():
        cell = cells[number]
        around = around_task(cell.command, cell.task) or (cell.command, None)
        lines[around].append(CellLine(number, cell, "; ".join(found)))
    labels = {cells[number].defense for number in own}
    label = labels.pop() if len(labels) == 1 else cells[next(iter(own))].defense_name
    return Configuration(label, shared, [Command(*around, found) for around, found in lines.items()])


def _split(own: Mapping[int, list[str]]) -> tuple[str, dict[int, list[str]]]:
    """The facts that all lists share, in the order of the first, and the rest of each."""
    first, *others = own.values()
    shared = set(first).intersection(*others)
    rest = {number: [fact for fact in found if fact not in shared] for number, found in own.items()}
    return "; ".join(fact for fact in first if fact in shared), rest


def _text(settings: Mapping[str, JsonValue]) -> str:
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in sorted(settings.items()))
