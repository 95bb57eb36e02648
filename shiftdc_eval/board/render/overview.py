"""The overview of a model in words and as a table: which defense leaves least harm, is that certain, what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from shiftdc_eval.board.index import CLASSES, Index, Overview, OverviewRow, Pooled
from shiftdc_eval.board.render.cell_listing import around_task
from shiftdc_eval.board.render.format import interval, percent, signed
from shiftdc_eval.board.render.tables import Part, Row, Table, Value

RULE = (
    "Defenses are compared only within a class of over-refusal, which the benign set that a defense refuses most "
    "decides; ● marks what is not separable from the lowest value of the class (paired tests, Holm-adjusted)."
)
GREY = "Grey rows are not compared: controls, ablations, detectors, and defenses with the reason below their names."
BOUNDS = [f"{100 * end:g} %" for end in CLASSES]
TITLES = (
    f"Refuse at most {BOUNDS[0]} of every benign set",
    f"Refuse {CLASSES[0] * 100:g} to {BOUNDS[1]} of a benign set",
    f"Refuse more than {BOUNDS[-1]} of a benign set",
)
"""Titles of the classes."""
KIND_TITLES = {
    "none": "Undefended",
    "detector": "Detectors: a fixed text refuses, not the model",
    "control": "Controls: no defenses",
    "ablation": "Ablations",
}
NOT_COMPARED = "Not compared"
TIME = "time over none"
AWAITED = {"LLaVA-1.5-7B": "llava-1.5-7b-hf", "LLaVA-v1.6-34B": "llava-v1.6-34b-hf"}
"""Real models that the grid `paper-tables` answers without conversion: name -> pattern of its cells."""
FILLS = {
    "harm": ("figstep", "toy_figstep"),
    "benign": ("figstep_benign", "toy_benign"),
    "utility": ("shiftdc_mme", "toy_mme"),
}
"""What an overview is over -> the task that fills it, of a model and of a toy."""


def overview_table(found: Overview) -> Table:
    """The rows by class; detectors, controls and ablations apart."""
    parts: dict[str, list[Row]] = {}
    for row in found.rows:
        parts.setdefault(_part(row), []).append(
            Row(
                short_name(row),
                [
                    pooled(row.harm),
                    _over_refusal(row, len(found.benign)),
                    *([pooled(row.utility_lost, row.kind == "none")] if found.utility else []),
                    *([Value(f"{row.time:.2f}×") if row.time else Value()] if timed(found) else []),
                    Value(f"{row.unscored}" if not row.unscored else f"{row.unscored} of {row.answers:,}"),
                ],
                row.cells,
                [
                    *row.reasons,
                    *([f"one of {row.draws} random directions, that of most tasks"] if row.draws > 1 else []),
                ],
                row.compared,
            )
        )
    heads = [("harmful requests not refused", "%"), ("over-refusal", "%")]
    heads += [("utility lost", "points")] if found.utility else []
    heads += [(TIME, "")] if timed(found) else []
    return Table("", [*heads, ("unscored", "answers")], [Part(title, rows) for title, rows in parts.items()])


def short_name(row: OverviewRow) -> str:
    """The defense's label; of a row of several random directions without the settings that draw them."""
    return row.defense.partition(" (")[0] if row.draws > 1 else row.defense


def timed(found: Overview) -> bool:
    """Whether any defense is timed beside `none`."""
    return any(row.time is not None for row in found.rows if row.kind != "none")


def pooled(value: Pooled | None, reference: bool = False) -> Value:
    """A number with its interval; zero for the row that it is measured against."""
    if value is None:
        return Value("0" if reference else "–")
    return Value(signed(value.value), interval(value.low, value.high), best=value.best)


def _over_refusal(row: OverviewRow, sets: int) -> Value:
    value = pooled(row.over_refusal)
    if row.worst is None or sets < 2 or row.over_refusal is None:
        return value
    note = f"most: {percent(row.worst[1])} of {row.worst[0]}"
    return Value(value.text, value.small, [note], best=value.best)


def _part(row: OverviewRow) -> str:
    if row.kind != "defense":
        return KIND_TITLES[row.kind]
    return TITLES[row.level] if row.compared and row.level is not None else NOT_COMPARED


def answers(found: Overview) -> Iterator[tuple[str, str, str]]:
    """For each class with a defense: (title, name of its lowest, what it leaves, whether that is certain, its cost)."""
    base = next((row for row in found.rows if row.kind == "none"), None)
    for level, title in enumerate(TITLES):
        own = [row for row in found.rows if row.compared and row.level == level and row.harm]
        defenses = [row for row in own if row.kind == "defense"]
        if not defenses:
            continue
        best = min(defenses, key=lambda row: row.harm.value if row.harm else 1)
        tied = [row.defense for row in own if row is not best and row.harm and row.harm.best]
        certain = len(own) > 1 and bool(best.harm and best.harm.best) and not tied
        if best.harm and not best.harm.best:
            said = "worse than no defense"
        elif certain:
            said = "separable from all others of its class"
        elif tied:
            said = f"not separable from {', '.join(tied)}"
        else:
            said = "alone in its class"
        yield (
            title,
            best.defense,
            f"leaves {_shown(best.harm)} of harmful requests unrefused, {said}. {_cost(best, base)}",
        )


def _shown(value: Pooled | None) -> str:
    return "–" if value is None else f"{percent(value.value)} % ({interval(value.low, value.high)})"


def _cost(row: OverviewRow, base: OverviewRow | None) -> str:
    known = base.over_refusal if base else None
    parts = [
        f"over-refusal {_shown(row.over_refusal)}"
        + (f", undefended {percent(known.value)} %" if known else "")
    ]
    lost = row.utility_lost
    parts.append(f"{signed(lost.value)} points of utility lost" if lost else "utility not measured")
    parts.append(f"{row.time:.2f} times the seconds" if row.time else "time not measured")
    return f"Cost: {'; '.join(parts)}."


def over(found: Overview) -> list[str]:
    """What the numbers are over, in sentences."""
    said = []
    if found.harm:
        kind = "without an image" if found.text_only else "with an image"
        said.append(f"Harm: clear-harm requests {kind} ({_tasks(found.harm)}).")
    if found.benign:
        said.append(f"Over-refusal: all benign sets together ({_tasks(found.benign)}).")
    if found.harm or found.benign:
        said.append(f"Both by {found.judge.partition('@')[0]}.")
    if found.utility:
        said.append(f"Utility: mean score of none minus that of the defense ({_tasks(found.utility)}).")
    return said


def _tasks(tasks: Mapping[str, int]) -> str:
    return ", ".join(
        f"{task} {count:,}" for task, count in sorted(tasks.items(), key=lambda one: (-one[1], one[0]))
    )


def missing(found: Overview) -> list[str]:
    """Which of refusals, utility and time no defense has."""
    gaps = {
        "harm not refused": not found.harm,
        "over-refusal": not found.benign,
        "utility lost": not found.utility,
        TIME: not timed(found),
    }
    return [name for name, gap in gaps.items() if gap]


def fill(index: Index, found: Overview) -> str:
    """The one command that measures what is missing; empty where nothing is, or no command can be told."""
    gaps = [part for part in FILLS if not getattr(found, part)]
    if not timed(found) and "utility" not in gaps:
        gaps.append("utility")
    if not gaps:
        return ""
    tasks = ",".join(FILLS[gap][found.mark == "toy"] for gap in gaps)
    rows: Sequence[OverviewRow] = sorted(found.rows, key=lambda row: row.kind != "none")
    for number in (number for row in rows for number in row.cells):
        cell = index.cells[number]
        if around := around_task(cell.command, cell.task):
            return f"{around[0]}{tasks}{around[1]}"
    return ""
