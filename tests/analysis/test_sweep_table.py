"""A finished sweep's table compares like with like, and says so where it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made import Made

from shiftdc_eval.analysis.sweeps.plot import _ranges
from shiftdc_eval.analysis.sweeps.table import against_random, brief, markdown, rows
from shiftdc_eval.core.errors import RecordError

KEYWORD, STRICT = ("refusal", 0.9), ("refusal", 0.1)


def swept(folder: Path, *runs: Made) -> list[Path]:
    for run in runs:
        run.write(folder)
    return [folder]


def test_a_cell_is_compared_by_the_judge_of_none(tmp_path: Path) -> None:
    # judged again, one cell has a judge more, and it stands first
    both = {"a_strict": STRICT, "keyword_robust": KEYWORD}
    results = swept(tmp_path, Made(judges={"keyword_robust": KEYWORD}), Made(defense="shiftdc", judges=both))
    none, shiftdc = rows(results)
    assert shiftdc["value"] == pytest.approx(none["value"], abs=0.2)
    with pytest.raises(RecordError, match="no verdicts of judge a_strict; there are keyword_robust"):
        rows(results, "a_strict")


def test_a_cell_without_the_judge_of_none_is_named(tmp_path: Path) -> None:
    results = swept(tmp_path, Made(judges={"a_strict": STRICT}), Made(defense="shiftdc"))
    with pytest.raises(
        RecordError, match="no verdicts of judge a_strict@.* which judged none; there are keyword"
    ):
        rows(results)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"model_revision": "def456"}, {"attention": "eager"}])
def test_cells_that_differ_in_more_than_their_defense_are_no_sweep(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    results = swept(tmp_path, Made(), Made(defense="shiftdc", **changed))
    with pytest.raises(RecordError, match="figstep_tiny on org/tiny-vlm has cells with several seeds"):
        rows(results)


def test_none_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no cell of defense none for figstep_tiny"):
        rows(swept(tmp_path, Made(defense="shiftdc")))


def test_a_random_direction_without_a_verdict_does_not_count(tmp_path: Path) -> None:
    judged = [Made(defense="random", settings={"random_seed": seed}) for seed in (0, 1)]
    silent = Made(defense="random", settings={"random_seed": 2}, unscored={"keyword_robust": list(range(20))})
    other = Made(defense="random", settings={"random_seed": 3, "alpha": 2})
    table = rows(swept(tmp_path, Made(), Made(defense="shiftdc"), *judged, silent, other))
    (found,) = against_random(table)
    assert found["directions"] == 2
    assert "shiftdc moves keyword_asr by" in markdown({"rows": table, "random": [found]})


def test_each_shiftdc_has_the_random_directions_of_its_own_settings(tmp_path: Path) -> None:
    runs = [
        Made(defense=name, settings={"alpha": alpha, "random_seed": seed})
        for alpha, seeds in ((1, (0, 1, 2)), (2, (0,)))
        for name, seed in [("shiftdc", None), *(("random", seed) for seed in seeds)]
    ]
    found = against_random(rows(swept(tmp_path, Made(), *runs)))
    assert [(one["label"], one["directions"]) for one in found] == [
        ("shiftdc (alpha=1)", 3),
        ("shiftdc (alpha=2)", 1),
    ]


def test_the_brief_table_has_a_line_a_configuration_and_one_for_many_random_directions(
    tmp_path: Path,
) -> None:
    random = [Made(defense="random", settings={"random_seed": seed}) for seed in range(6)]
    other = Made(task="xstest_safe", benign=True, unscored={"keyword_robust": [3]})
    table = rows(swept(tmp_path, Made(), other, Made(defense="shiftdc"), *random))
    head, _, none, shiftdc, together, _, items = brief(table).splitlines()
    assert head == "| | `figstep_tiny` | `xstest_safe` |"
    value = table[0]
    assert f"| none | {100 * value['value']:.0f} [{100 * value['low']:.0f} to" in none
    assert shiftdc.endswith("|  |")
    ends = sorted(100 * row["value"] for row in table if row["defense"] == "random")
    assert together == f"| 6 random directions | {ends[0]:.0f} to {ends[-1]:.0f} | no number |"
    assert items == "Items with a verdict: 19 to 20."


def ranged(layers: str, **more: Any) -> dict[str, Any]:
    return {"defense": "shiftdc", "value": 0.5, "settings": {"layers": layers, **more}}


def test_only_a_sweep_of_nothing_but_layers_is_a_heat_map() -> None:
    none = {"defense": "none", "value": 0.9, "settings": {}}
    swept = [ranged(f"{first}-{last}") for first in (0, 2) for last in (3, 5, 7)]
    assert len(_ranges([none, *swept])) == 6
    assert _ranges([none, *swept, ranged("0-3", alpha=2)]) == {}
    assert _ranges([none, *swept, {"defense": "cmrm", "value": 0.5, "settings": {}}]) == {}


def test_the_table_is_printed_briefly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from shiftdc_eval.cli import main

    results = swept(tmp_path / "results", Made(), Made(defense="shiftdc"))
    assert main(["sweep", "table", str(results[0]), "-o", str(tmp_path), "--brief"]) == 0
    said = capsys.readouterr().out
    assert brief(json.loads((tmp_path / "sweep.json").read_text())["rows"]) in said
    assert "difference to none" not in said
