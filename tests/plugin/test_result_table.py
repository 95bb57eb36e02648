"""The table at the end of a run, against counts and intervals worked out here from the rows."""

from collections import Counter
from math import sqrt
from pathlib import Path

import pytest
from made import Made

from shiftdc_eval.plugin.result_table import print_results


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval (Wilson 1927)."""
    z = 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return middle - half, middle + half


def test_each_judge_has_a_row_with_share_interval_and_what_is_unscored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(items=50, judges={"llm_b": ("harm", 0.5)}, unscored={"llm_b": [3, 7]}, note="")
    Made(run="another").write(tmp_path)  # an earlier run into the same folder
    samples = made.write(tmp_path)
    values = [row.verdicts["llm_b"].value for row in made.samples()]
    unsafe, n = values.count("unsafe"), len(values) - values.count(None)
    low, high = (f"{100 * end:.1f}" for end in wilson(unsafe / n, n))
    shown = []
    for columns in ("80", "24"):
        monkeypatch.setenv("COLUMNS", columns)
        print_results(Path(str(samples).replace("samples_figstep_tiny.jsonl", "results.json")), [samples])
        said, error = capsys.readouterr()
        assert error == ""
        shown.append(said)
    lines = [" ".join(line.split()) for line in shown[0].splitlines()]
    assert lines[1] == "figstep_tiny 20 of 50 items"
    share = f"llm_b ASR lower {100 * unsafe / n:.1f} % {low}-{high}"
    assert " ".join(lines[2:4]) == f"{share} {n} scored, 2 unscored (2 no reply)"
    assert len(lines) == 5, "one judge"
    wide, narrow = (Counter("".join(said.split())) for said in shown)
    assert wide == narrow, "nothing is cut where there is little room"


def test_tasks_of_others_keep_the_numbers_that_lmms_eval_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "d_results.json"
    results.write_text(
        '{"results": {"mmbench": {"alias": "x", "acc,none": 0.25, "acc_stderr,none": 0.1, "n,strict": 3,'
        ' "f1,none": "N/A"}}, "n-samples": {"mmbench": {"effective": 8}},'
        ' "higher_is_better": {"mmbench": {"acc": true}}}'
    )
    samples = tmp_path / "d_samples_mmbench.jsonl"
    samples.write_text('{"doc_id": 1}\n')
    print_results(results, [samples])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1:4] == [
        ["mmbench", "8", "items"],
        ["acc", "higher", "0.25", "+-", "0.196"],
        ["strict", "n", "3"],
    ]
