"""Benchmarks whose judges tell classes: what is shown only beside a benign set, and what a reading measures."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from made import Made
from shown import rows
from shown import tasks as benchmarks
from shown import value as entry
from statsmodels.stats.contingency_tables import mcnemar

from shiftdc_eval.board.build import build
from shiftdc_eval.board.index import Index
from shiftdc_eval.core.records import SampleField

CLASSES = {"llm_vlsbench": ("harm", 0.5), "llm_vlsbench_refusal": ("refusal", 0.5)}

MODEL = dict.fromkeys([*CLASSES, "llm_mssbench"], "judge-1")


def index_of(board: Path) -> Index:
    return Index.model_validate_json((board / "index.json").read_text())


def test_vlsbench_is_shown_for_those_alone_that_answered_a_benign_set(results: Path, board: Path) -> None:
    for defense in ("none", "ecso"):
        Made(
            task="vlsbench",
            defense=defense,
            note="",
            judges=CLASSES,
            judge_models=MODEL,
            size=40,
            images_a_question=2,
        ).write(results / defense)
    build([results], board)
    assert benchmarks(index_of(board)) == {}
    assert all("no benign set beside it" in cell.not_ranked for cell in index_of(board).cells)

    blank = Made(task="mossbench_blank", defense="none", note="", benign=True, run="blank")
    blank.write(results / "blank")
    record = blank.record()
    tasks = [record.tasks[0].model_copy(update={"notes": ["blank images: every image is grey"]})]
    path = next((results / "blank").rglob("run-*.json"))
    path.write_text(record.model_copy(update={"tasks": tasks}).model_dump_json())
    build([results], board, replace=True)
    assert "vlsbench" not in benchmarks(index_of(board)), "a control is no benign set"

    Made(task="mossbench", defense="ecso", note="", benign=True).write(results / "benign")
    build([results], board, replace=True)
    index = index_of(board)
    found = benchmarks(index)["vlsbench"]
    assert list(rows(found.table)) == ["ecso"]
    heads = [" ".join(head) for head in found.table.heads]
    # the reading says who refused, not who was attacked
    assert heads[:2] == ["ASR % llm_vlsbench (judge-1)", "not refused % llm_vlsbench_refusal (judge-1)"]
    assert "over-refusal % together" in heads
    assert "left out" in found.about[0]
    cell = next(cell for cell in index.cells if cell.task == "vlsbench" and cell.defense == "ecso")
    measure = next(one for one in cell.measures if one.metric == "asr")
    assert (measure.n, measure.questions) == (40, 20)  # clustered by image


class Situations(Made):
    """Each query with a safe and an unsafe picture; some verdicts are missing."""

    def samples(self) -> list[SampleField]:
        made = []
        for row, sample in enumerate(super().samples()):
            safe, draw = row % 2 == 0, random.Random(row).random()
            value = None if row == 5 else "refused" if draw < (0.2 if safe else 0.6) else "complied"
            update: dict[str, Any] = {
                "item": f"mssbench/chat/{row // 2}/0/{'safe' if safe else 'unsafe'}",
                "question": f"mssbench/chat/{row // 2}",
                "flags": ["benign"] if safe else [],
                "groups": {"scenario": "chat"},
                "verdicts": {
                    name: one.model_copy(update={"value": value}) for name, one in sample.verdicts.items()
                },
            }
            made.append(sample.model_copy(update=update))
        return made


def test_the_two_pictures_of_a_query_are_compared_on_the_board(results: Path, board: Path) -> None:
    made = Situations(
        task="mssbench", note="", judges={"llm_mssbench": ("refusal", 0.5)}, judge_models=MODEL, size=60
    )
    made.write(results)
    build([results], board)
    refused: dict[int, dict[bool, bool]] = {}
    for row, sample in enumerate(made.samples()):
        value = sample.verdicts["llm_mssbench"].value
        if value is not None:
            refused.setdefault(row // 2, {})["benign" in sample.flags] = value == "refused"
    pairs = [(one[False], one[True]) for one in refused.values() if len(one) == 2]
    table = [[pairs.count((a, b)) for b in (True, False)] for a in (True, False)]

    (cell,) = index_of(board).cells
    measures = {one.metric: one for one in cell.measures}
    assert set(measures) == {"refused", "over_refusal"}  # right on unsafe pictures, wrong on safe ones
    contrast = measures["refused"].contrast
    assert contrast is not None
    assert measures["over_refusal"].contrast is None
    assert (contrast.n, contrast.first_only, contrast.second_only) == (29, table[0][1], table[1][0])
    assert contrast.value == pytest.approx((table[0][1] - table[1][0]) / 29, abs=1e-6)
    assert contrast.p == pytest.approx(mcnemar(table, exact=True).pvalue, rel=5e-3)  # three digits are kept
    assert contrast.low < contrast.value < contrast.high
    (note,) = entry(benchmarks(index_of(board))["mssbench"].table, "none", "not refused").notes
    assert "(29 pairs)" in note
    for file in ("leaderboard.md", "index.html"):
        assert "unsafe \u2212 safe" in (board / file).read_text()
