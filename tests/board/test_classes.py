"""Benchmarks whose judges tell classes: what is shown only beside a benign set, and what a reading measures."""

from __future__ import annotations

from pathlib import Path

from made import Made

from shiftdc_eval.board.build import build
from shiftdc_eval.board.index import Index
from shiftdc_eval.board.render.sections import sections_of

CLASSES = {"llm_vlsbench": ("harm", 0.5), "llm_vlsbench_refusal": ("refusal", 0.5)}


def index_of(board: Path) -> Index:
    return Index.model_validate_json((board / "index.json").read_text())


def test_vlsbench_is_shown_for_those_alone_that_answered_a_benign_set(results: Path, board: Path) -> None:
    for defense in ("none", "ecso"):
        Made(task="vlsbench", defense=defense, note="", judges=CLASSES, size=40, images_a_question=2).write(
            results / defense
        )
    build([results], board)
    assert sections_of(index_of(board)) == []
    assert all("no benign set beside it" in cell.not_ranked for cell in index_of(board).cells)

    Made(task="mossbench", defense="ecso", note="", benign=True).write(results / "benign")
    build([results], board, replace=True)
    index = index_of(board)
    shown = {section.name: section for section in sections_of(index)}
    asr = next(section for name, section in shown.items() if " ASR by llm_vlsbench@" in name)
    assert [line.cell.defense_name for line in asr.lines] == ["ecso"]
    assert [column.title for column in asr.beside] == ["over-refusal: mossbench"]
    assert "left out" in asr.remark
    # the reading says who refused, not who was attacked
    assert any(name.startswith("vlsbench v1 · refused by llm_vlsbench_refusal@") for name in shown)
    measure = next(one for one in asr.lines[0].cell.measures if one.metric == "asr")
    assert (measure.n, measure.questions) == (40, 20)  # clustered by image
