"""Cells as Ray tasks, on a real local Ray with two CPU workers."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from ray_work import work

from shiftdc_eval.grid import run as grid
from shiftdc_eval.grid.file import Cell, read_grid
from shiftdc_eval.grid.plan import COMPLETE
from shiftdc_eval.grid.ray import run_with_ray

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")

FILE = """
models: [first, second]
defenses: [none, {name: shiftdc, caption_max_new_tokens: 4}]
tasks: [figstep]
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_cells_run_on_two_workers_and_survive_the_death_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = tmp_path / "grid.yaml"
    path.write_text(FILE)
    cells, out = list(read_grid(path).cells()), tmp_path / "out"
    killed: list[int] = []
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)

    def kill_one_worker() -> None:
        """SIGKILL the process that waits for it."""
        while not (out / "second.pid").is_file():
            time.sleep(0.02)
        killed.append(int((out / "second.pid").read_text()))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one_worker, daemon=True)
    killer.start()
    try:
        failures = run_with_ray(cells, out, work)
    finally:
        killer.join(timeout=10)
        ray.shutdown()
    assert killed, "no worker was killed: the test would show nothing"
    assert int((out / "second.pid").read_text()) != killed[0]
    assert failures == {cells[0].label: "cannot be answered"}, "what a worker could not do is told"
    assert len(list(out.rglob(COMPLETE))) == len(cells) == 4


def test_a_worker_runs_what_is_not_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(FILE)
    cells = list(read_grid(path).cells())
    ran: list[Cell] = []
    monkeypatch.setattr(grid, "is_complete", lambda cell, out: cell.defense.name == "none")
    monkeypatch.setattr(grid, "run_cells", lambda todo, out, report: ran.extend(todo) or {})
    assert grid.run_share(cells, tmp_path) == {}
    assert {cell.defense.name for cell in ran} == {"shiftdc"}
