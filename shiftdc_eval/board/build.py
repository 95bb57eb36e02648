"""From cells to the index and from the index to files: a pure function of the cells and the reported numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from shiftdc_eval.board import costs
from shiftdc_eval.board.cell import Cell
from shiftdc_eval.board.cell_files import CELLS, remove_leftovers
from shiftdc_eval.board.compare import Member, compare, family_key
from shiftdc_eval.board.defense_labels import defense_labels
from shiftdc_eval.board.detection import answers_by_template, detections, is_blank
from shiftdc_eval.board.index import BLANK_CONTROL, LEAKAGE, NO_BENIGN, PARTIAL, Detection, Index, IndexCell
from shiftdc_eval.board.ingest.join import join
from shiftdc_eval.board.judge_calibrations import (
    CALIBRATIONS,
    HELD_OUT,
    attached,
    calibration_name,
    only_calibrations,
)
from shiftdc_eval.board.metrics import Column, agreements, columns_of, measure
from shiftdc_eval.board.model_kinds import mark_of
from shiftdc_eval.board.official_means import means_of
from shiftdc_eval.board.overview import kind_of, overviews
from shiftdc_eval.board.render.markdown import markdown
from shiftdc_eval.board.render.page import page
from shiftdc_eval.board.reported import REPORTED, Reported, shipped
from shiftdc_eval.board.seed_pooling import over_seeds
from shiftdc_eval.core.errors import RecordError
from shiftdc_eval.core.hashing import content_hash
from shiftdc_eval.core.json_files import canonical, record_text, write_text
from shiftdc_eval.core.locks import locked
from shiftdc_eval.core.records import BENIGN_ITEM, BLANK_IMAGES, Calibration

GENERATED = ("index.json", "leaderboard.md", "index.html")
LOCK = ".build.lock"


def build(results: Sequence[Path], board: Path, replace: bool = False, *, times: bool = True) -> list[str]:
    """Add results to the board and regenerate its files.

    Args:
        results: folders as lmms-eval writes them, with or without judge calibrations; none: only regenerate.
        board: the folder of the board.
        replace: new results replace existing cells.
        times: keep the seconds of the new results.
    Returns:
        paths below `cells/` of the cells that are new or changed.
    Raises:
        RecordError: results or cells are invalid; nothing is written then.
        WriteError: the board cannot be written.
    """
    new = not board.exists()
    if not results and not any(shelf.paths(board) for shelf in (CELLS, REPORTED, CALIBRATIONS)):
        raise RecordError(
            f"{board}: no board is there, and no results are given: name folders that `shiftdc-eval run` wrote"
        )
    try:
        with locked(board / LOCK, f"{board}: another process is building this board; waiting for it"):
            remove_leftovers(board)
            return _build(results, board, replace, times)
    finally:
        if new:
            with suppress(OSError):
                board.rmdir()  # where nothing was written


def _build(results: Sequence[Path], board: Path, replace: bool, times: bool) -> list[str]:
    existing = {cell.path: cell for cell in CELLS.all_of(board)}
    fresh = attached(results)
    known = {calibration_name(one): one for one in CALIBRATIONS.all_of(board)} | fresh
    answered = [folder for folder in results if not only_calibrations(folder)]
    new = {cell.path: cell for cell in join(answered, existing.values(), replace)} if answered else {}
    if not times:
        kept = {} if replace else existing
        new = {path: costs.without_seconds(cell, kept.get(path)) for path, cell in new.items()}
    changed = [path for path, cell in new.items() if existing.get(path) != cell]
    cells = existing | new
    texts = {f"{CALIBRATIONS.folder}/{name}": record_text(one) for name, one in fresh.items()}
    texts |= {f"cells/{path}": record_text(new[path]) for path in changed}
    texts |= generate(list(cells.values()), REPORTED.all_of(board), list(known.values()))
    for name, text in texts.items():
        write_text(board / name, text)
    return changed


def generate(
    cells: Sequence[Cell], reported: Sequence[Reported], calibrations: Sequence[Calibration] = ()
) -> dict[str, str]:
    """The generated files by name."""
    index = index_of(cells, reported, calibrations)
    return {
        "index.json": canonical(index.model_dump(mode="json")),
        "leaderboard.md": markdown(index),
        "index.html": page(index),
    }


def index_of(
    cells: Sequence[Cell], reported: Sequence[Reported], calibrations: Sequence[Calibration] = ()
) -> Index:
    """The index of some cells; their order does not matter."""
    ordered = sorted(cells, key=lambda cell: cell.path)
    known = [*reported, *(paper for paper in shipped() if paper not in reported)]
    labels, relative, detected = defense_labels(ordered), costs.relative_times(ordered), detections(ordered)
    with_benign = {
        system_id(cell)
        for cell in ordered
        if not is_blank(cell) and (cell.task.benign or BENIGN_ITEM in cell.samples.flags)
    }
    entries: list[IndexCell] = []
    families: dict[str, list[Member]] = defaultdict(list)
    for number, cell in enumerate(ordered):
        columns = columns_of(cell)
        entry = index_cell(
            cell, columns, labels[cell.path], relative.get(cell.path), detected.get(cell.path), known
        )
        if means_of(cell.task.name).beside_benign and entry.system not in with_benign:
            entry = entry.model_copy(update={"not_ranked": [*entry.not_ranked, NO_BENIGN]})
        entries.append(entry)
        for position, column in enumerate(columns):
            families[family_key(column)].append(Member(number, position, column, entry))
    comparisons = [compare(*over_seeds(members)) for members in families.values()]
    comparisons.sort(key=lambda found: (found.task, found.version, found.judge, found.entries[0].cell))
    judges = {column.fingerprint for cell in ordered for column in cell.judges}
    return Index(
        cells=entries,
        overviews=overviews(ordered, entries),
        comparisons=comparisons,
        calibrations=[
            found
            for found in sorted(calibrations, key=calibration_name)
            # a judge that has judged nothing here needs no line; no figure of a judge is in-sample
            if found.fingerprint in judges and found.sample == HELD_OUT
        ],
        reported=[
            paper.without_places()
            for paper in known
            if paper in reported or any(beside_of(paper, cell) for cell in ordered)
        ],
    )


def beside_of(paper: Reported, cell: Cell) -> dict[str, list[str]]:
    """What a paper prints for a cell, by metric; nothing for ablations and marked models."""
    if cell.ablation or mark_of(cell.model.note):
        return {}
    return paper.beside(cell.model.id.rpartition("/")[2], cell.task.name, cell.defense.name)


def index_cell(
    cell: Cell,
    columns: Sequence[Column],
    label: str,
    relative: costs.Relative | None,
    detection: Detection | None,
    papers: Sequence[Reported] = (),
) -> IndexCell:
    """One cell as the board shows it."""
    notes = [*cell.task.notes, *(note for run in cell.runs for note in run.notes)]
    if relative is not None and relative.engine and costs.engine(cell) not in ("", relative.engine):
        notes.append(
            f"answered by the {costs.engine(cell)} engine, `none` by the {relative.engine} one: the relative "
            "time also depends on the engines"
        )
    seconds = costs.seconds_per_answer(cell)
    printed: dict[str, list[str]] = defaultdict(list)
    for paper in papers:
        for metric, said in beside_of(paper, cell).items():
            printed[metric] += said
    return IndexCell(
        path=cell.path,
        task=cell.task.name,
        version=cell.task.version,
        revision=cell.task.revision,
        benign=cell.task.benign,
        model=cell.model.id,
        model_revision=cell.model.revision,
        model_note=cell.model.note,
        mark=mark_of(cell.model.note),
        defense=label,
        defense_name=cell.defense.name,
        settings=cell.defense.settings,
        dtype=cell.dtype,
        attention=cell.attention,
        engine=cell.engine,
        batch_sizes=sorted({run.batch_size for run in cell.runs if run.batch_size}),
        seed=cell.seed,
        generation=cell.task.generation,
        answered=cell.answered,
        items=cell.task.items,
        answers=len(cell.samples),
        ablation=cell.ablation,
        not_ranked=reasons_not_to_rank(cell, notes),
        recorded=all(run.recorded for run in cell.runs),
        notes=list(dict.fromkeys(notes)),
        hardware=costs.hardware(cell),
        seconds=None if seconds is None else float(f"{seconds:.4g}"),
        relative=None if relative is None else relative.seconds,
        tokens=costs.tokens_per_answer(cell),
        price=costs.price(cell),
        command=cell.runs[-1].command,
        system=system_id(cell),
        subject=subject_id(cell),
        reported=dict(printed),
        measures=[measure(column) for column in columns],
        agreement=agreements(columns),
        detection=detection,
    )


def reasons_not_to_rank(cell: Cell, notes: Sequence[str]) -> list[str]:
    """Why a cell does not rank, whatever the judge."""
    reasons = {
        PARTIAL: cell.partial,
        "control": kind_of(cell) == "control",
        "ablation": kind_of(cell) == "ablation",
        "refusals are a detector's fixed text": answers_by_template(cell),
        LEAKAGE: any(note.startswith("leakage") for note in notes),
        BLANK_CONTROL: any(note.startswith(BLANK_IMAGES) for note in notes),
    }
    return [reason for reason, holds in reasons.items() if holds]


def system_id(cell: Cell) -> str:
    """Hash of what is the same over tasks and seeds: model, defense, dtype, attention kernel and engine."""
    key = cell.key()
    del key["task"], key["seed"]
    return content_hash(key)[:12]


def subject_id(cell: Cell) -> str:
    """Hash of what is the same over tasks, defenses and seeds, and of the kind of model."""
    key = cell.key()
    del key["task"], key["seed"], key["defense"]
    return content_hash([key, mark_of(cell.model.note)])[:12]
