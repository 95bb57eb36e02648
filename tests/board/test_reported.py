"""Numbers from papers beside the measured ones of the same model, task and defense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made import Made
from shown import tasks

from shiftdc_eval.board.build import build
from shiftdc_eval.board.check import check
from shiftdc_eval.board.index import Index
from shiftdc_eval.board.render.benchmarks import Benchmark
from shiftdc_eval.board.reported import shipped

LLAVA = "llava-hf/llava-1.5-7b-hf"


def built(results: Path, board: Path, *made: Made) -> tuple[Index, list[Benchmark]]:
    for number, one in enumerate(made):
        one.run = f"r{number}"
        one.write(results / str(number))
    build([results], board)
    index = Index.model_validate_json((board / "index.json").read_text())
    return index, list(tasks(index).values())


def beside(task: Benchmark) -> dict[str, str]:
    return {row.name: "; ".join(row.values[0].printed) or "–" for row in task.table.rows}


def test_the_papers_number_stands_beside_the_measured_one_with_its_name(results: Path, board: Path) -> None:
    common: dict[str, Any] = {"task": "figstep", "model": LLAVA, "note": ""}
    index, (section,) = built(
        results,
        board,
        Made(defense="none", **common),
        Made(defense="shiftdc", settings={"variant": "online"}, **common),
        Made(defense="ecso", **common),
        Made(defense="cmrm", **common),
    )
    assert beside(section) == {
        "none": "ShiftDC paper: 52.4 %",
        "shiftdc": "ShiftDC paper: 13.2 %",
        "ecso": "ShiftDC paper: 14.2 %",
        "cmrm": "–",
    }
    assert [paper.source.short for paper in index.reported] == ["ShiftDC paper"]
    # told apart from measured numbers by their form
    assert '<div class="note paper">ShiftDC paper: 13.2 %</div>' in (board / "index.html").read_text()
    assert "*ShiftDC paper: 13.2 %*" in (board / "leaderboard.md").read_text()
    assert check(board) == []


@pytest.mark.parametrize(
    ("task", "model", "defense", "judges", "said"),
    [
        (
            "mm_safetybench_sd_typo",
            LLAVA,
            "shiftdc",
            {"keyword_shiftdc": ("refusal", 0.5)},
            "ShiftDC paper: 43.6 % (mean of 13 scenarios)",
        ),
        (
            "mm_safetybench_sd_typo",
            "Qwen/Qwen3-VL-8B-Instruct",
            "shiftdc",
            {"llm": ("harm", 0.5)},
            "SRT paper: 47.7 %",
        ),
        (
            "mm_safetybench_sd_typo",
            "google/gemma-3-12b-it",
            "none",
            {"llm": ("harm", 0.5)},
            "SRT paper: 68.7 %",
        ),
        (
            "shiftdc_mmvet",
            "/models/sharegpt4v-7b",
            "ecso",
            {"llm_mmvet": ("score", 0.5)},
            "ShiftDC paper: 30.5",
        ),
        (
            "holisafe",
            "Qwen/Qwen3-VL-8B-Instruct",
            "shiftdc",
            {"keyword_holisafe": ("refusal", 0.5)},
            "SRT paper: 86.5 % (type SSU); SRT paper: 80.6 % (type USU); SRT paper: 42.2 % (type SUU); "
            "SRT paper: 36.8 % (type UUU)",
        ),
        # another judge's kind, model, defense or a small task: nothing
        ("mm_safetybench_sd_typo", "Qwen/Qwen3-VL-8B-Instruct", "shiftdc", {"k": ("refusal", 0.5)}, "–"),
        ("figstep", "Qwen/Qwen3-VL-4B-Instruct", "none", {"llm": ("harm", 0.5)}, "–"),
        ("figstep_tiny", LLAVA, "none", {"k": ("refusal", 0.5)}, "–"),
        ("figstep_blank", LLAVA, "none", {"k": ("refusal", 0.5)}, "–"),
    ],
)
def test_a_number_is_for_its_own_model_task_defense_and_kind_of_judge(
    results: Path, board: Path, task: str, model: str, defense: str, judges: Any, said: str
) -> None:
    _, (section,) = built(
        results, board, Made(task=task, model=model, defense=defense, judges=judges, note="")
    )
    shown = beside(section)[defense]
    assert shown == said


def test_marked_models_and_ablations_have_none_and_their_board_no_paper(results: Path, board: Path) -> None:
    index, (section,) = built(results, board, Made(task="figstep", model=LLAVA, note="toy"))
    assert beside(section) == {"none": "–"}
    assert index.reported == []


def test_places_name_tasks_defenses_and_metrics_that_exist() -> None:
    from shiftdc_eval.board.render.format import METRIC_NAMES
    from shiftdc_eval.defenses.registry import DEFENSES
    from shiftdc_eval.tasks.catalogue import KNOWN

    places = [place for paper in shipped() for table in paper.tables for place, _ in table.placed()]
    assert len(places) > 120
    assert {place.task for place in places} <= KNOWN.keys()
    assert {place.metric for place in places} <= METRIC_NAMES.keys()
    assert {place.defense for place in places} <= {*DEFENSES}


def test_srts_table_says_what_was_read() -> None:
    """Typed a second time: in 5 of 8 columns ShiftDC is worse than no defense on Qwen3-VL-8B."""
    (paper,) = [one for one in shipped() if one.source.short == "SRT paper"]
    table = next(one for one in paper.tables if one.id == "unsafe-qwen3-vl-8b")
    rows = {row.label: row.values for row in table.rows}
    none = [46.7, 56.7, 34.1, 43.1, 28.6, 92.5, 33.3, 27.1]
    shiftdc = [42.5, 86.5, 35.1, 47.7, 22.8, 80.6, 42.2, 36.8]
    assert (rows["none"], rows["ShiftDC"]) == (none, shiftdc)
    assert sum(a > b for a, b in zip(shiftdc, none, strict=True)) == 5
    mme = {row.label: row.values for row in next(one for one in paper.tables if one.id == "mme").rows}
    assert mme["Gemma-3-12B"] == [2111, 1479, 2002]
