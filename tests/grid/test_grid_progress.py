"""What a grid shows while it runs: plain lines in a file, a bar in a terminal."""

import os
import re
from pathlib import Path

import pytest
from adapter_harness import write_figstep
from pseudo_terminal import all_written, opened
from warm import Warm

from shiftdc_eval.grid.file import Cell, read_grid
from shiftdc_eval.grid.progress import Counts, shown
from shiftdc_eval.plugin.journal import Journal

FILE = """
models: [{model}]
defenses: [none, {{name: shiftdc, caption_max_new_tokens: 4}}]
tasks: [{task}]
defaults: {{batch_size: 2, limit: 8, gen_kwargs: {{max_new_tokens: 4}}}}
"""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def cells(folder: Path, model: str = "toy", task: str = "figstep") -> list[Cell]:
    path = folder / "grid.yaml"
    path.write_text(FILE.format(model=model, task=task))
    return list(read_grid(path).cells())


def answer(out: Path, cell: Cell, first: int, count: int, config: str = "a") -> None:
    with Journal(out / cell.folder, {"config": config}) as journal:
        journal.append(
            {
                "key": str(number),
                "task": "figstep",
                "text": "",
                "tokens_in": 1,
                "tokens_out": 1,
                "seconds": 0.1,
                "notes": [],
            }
            for number in range(first, first + count)
        )


def test_a_grid_in_a_terminal_shows_cells_samples_rate_and_time_left(
    tiny_llava: Path, tmp_path: Path, warm: Warm
) -> None:
    cells(tmp_path, str(tiny_llava))
    environment = {"SHIFTDC_DATA": str(write_figstep(tmp_path / "data")), "TERM": "xterm", "COLUMNS": "120"}
    ours, theirs = opened(80)
    words = ["run", str(tmp_path / "grid.yaml"), "-o", str(tmp_path / "out")]
    grid = warm.start("warm:grid", words, folder=tmp_path, terminal=os.ttyname(theirs), **environment)
    os.close(theirs)
    written = all_written(ours)
    assert grid.wait() == 0, written[-2000:]
    plain = CONTROL.sub("", written)
    seen = re.findall(r"cells (\d)/2 samples (\d+)/16 (\S+)/s (\S+) left", plain)
    assert [int(number) for number in seen[0][:2]] == [0, 0]
    assert seen[-1][:2] == ("2", "16")
    assert seen[-1][3] == "0:00:00"
    assert float(seen[-1][2]) > 0
    counts = [int(samples) for _, samples, *_ in seen]
    assert counts == sorted(counts)
    assert "| none | figstep: done" in plain
    assert "%|" not in plain, "the bars of others give way"


def test_where_there_is_no_terminal_each_cell_is_one_plain_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = cells(tmp_path)
    with shown(mine, tmp_path / "out", tmp_path / "log") as report:
        report(mine[0], "done", 8)
        report(mine[1], "failed: no room", 0)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("[1/2, 8 samples, ")
    assert first.endswith("left] toy | none | figstep: done")
    assert second.startswith("[2/2, 8 samples, ")
    assert second.endswith("0 s left] toy | shiftdc(caption_max_new_tokens=4) | figstep: failed: no room")


def test_answers_count_as_they_are_journalled_and_those_of_another_configuration_do_not(
    tmp_path: Path,
) -> None:
    mine, out = cells(tmp_path), tmp_path / "out"
    answer(out, mine[0], 0, 3)
    answer(out, mine[1], 0, 5, config="of another revision")
    counts = Counts(mine, out)
    assert counts.look()[:3] == (0, 0, 16)
    assert counts.text() == "cells 0/2 samples 0/16 -/s - left"
    answer(out, mine[0], 3, 1)
    assert counts.look()[:3] == (0, 4, 16)
    assert counts.look().rate is None, "answers of an earlier run are no speed"
    answer(out, mine[0], 4, 2)
    assert counts.look()[:3] == (0, 6, 16)
    assert counts.look().rate
    answer(out, mine[0], 6, 2)
    counts.ended[mine[0].folder] = 8
    answer(out, mine[1], 0, 2)
    assert counts.look()[:3] == (1, 10, 16)


def test_a_cell_that_another_process_completes_is_seen(tmp_path: Path) -> None:
    mine, out = cells(tmp_path), tmp_path / "out"
    for cell in mine:
        (out / cell.folder).mkdir(parents=True)
    (out / mine[1].folder / "cell.json").write_text("of another task version")
    counts = Counts(mine, out)
    assert counts.look()[:3] == (0, 0, 16)
    answer(out, mine[0], 0, 8)
    (out / mine[0].folder / "cell.json").write_text("{}")
    assert counts.look()[:3] == (1, 8, 16)


def test_the_size_of_a_task_that_is_not_ours_is_known_once_a_cell_of_it_ended(tmp_path: Path) -> None:
    mine, out = cells(tmp_path, task="a_task_of_lmms_eval"), tmp_path / "out"
    counts = Counts(mine, out)
    assert counts.look()[:3] == (0, 0, None)
    counts.ended[mine[0].folder] = 6
    assert counts.look()[:3] == (1, 6, 12)


def test_a_cell_that_is_begun_again_has_not_ended_and_no_file_ends_the_display(tmp_path: Path) -> None:
    mine, out = cells(tmp_path), tmp_path / "out"
    answer(out, mine[0], 0, 3)
    complete = out / mine[0].folder / "cell.json"
    complete.write_text("of another task version")
    counts = Counts(mine, out)
    complete.unlink()
    (out / mine[0].folder / "journal-of-a-folder.jsonl").mkdir()
    assert counts.look().cells == 0
    complete.write_text("{}")
    assert counts.look().cells == 1
