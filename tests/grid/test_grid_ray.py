"""Cells as Ray tasks, on a real local Ray with two CPU workers."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from adapter_harness import write_figstep
from tiny_models import save_tiny_llava

from shiftdc_eval.grid.file import read_grid
from shiftdc_eval.grid.ray import run_with_ray
from shiftdc_eval.grid.run import run_share

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")

FILE = """
models: [{first}, {second}]
defenses: [none, {{name: shiftdc, caption_max_new_tokens: 4}}]
tasks: [figstep]
defaults: {{batch_size: 2, gen_kwargs: {{max_new_tokens: 6}}}}
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_cells_run_on_two_workers_and_survive_the_death_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHIFTDC_DATA", str(write_figstep(tmp_path / "data")))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    models = [save_tiny_llava(tmp_path / name, seed=seed) for seed, name in enumerate(("first", "second"))]
    path = tmp_path / "grid.yaml"
    path.write_text(FILE.format(first=models[0], second=models[1]))
    cells, out = list(read_grid(path).cells()), tmp_path / "out"
    killed = threading.Event()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)

    def kill_one_worker() -> None:
        """SIGKILL a process that is working on a cell as soon as there is a journal."""
        while not list(out.rglob("journal-*.jsonl")):
            time.sleep(0.02)
        for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_text()
            except OSError:
                continue
            if "ray::run_share" in command:
                os.kill(pid, signal.SIGKILL)
                killed.set()
                return

    killer = threading.Thread(target=kill_one_worker)
    killer.start()
    try:
        failures = run_with_ray(cells, out, run_share)
    finally:
        killer.join(timeout=10)
        ray.shutdown()
    assert killed.is_set(), "no worker was killed: the test would show nothing"
    assert failures == {}
    assert len(list(out.rglob("cell.json"))) == len(cells) == 4
