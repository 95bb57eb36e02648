"""Cells over many machines: one Ray task for each model (extra `[ray]`).

A task holds all cells of one model that ask for the same number of GPUs, so a model is loaded once a task. A
worker that dies is started again by Ray and goes on from the journals, which stand on a file system that all
machines share.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.terminal import printable
from shiftdc_eval.grid.file import Cell

logger = logging.getLogger(__name__)
RETRIES = 3
"""Restarts of a task whose worker died."""


Work = Callable[[Sequence[Cell], Path], dict[str, str]]
"""Work function of a Ray task: runs the incomplete cells and returns label -> reason of each failure."""


def run_with_ray(cells: Sequence[Cell], out: Path, work: Work) -> dict[str, str]:
    """Run cells as Ray tasks on an existing cluster, or on a local one.

    Returns:
        Label -> reason of every cell that failed.

    Raises:
        ConfigError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--ray needs the extra [ray]: pip install 'shiftdc-eval[ray]'") from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    shares: dict[tuple[Any, float], list[Cell]] = defaultdict(list)
    for cell in cells:
        shares[cell.model, cell.settings.num_gpus].append(cell)
    task = ray.remote(work)
    # Ray hides every GPU from a task that asks for none
    usual = 1 if ray.cluster_resources().get("GPU") else 0
    pending = {
        task.options(num_cpus=1, num_gpus=gpus or usual, max_retries=RETRIES).remote(
            mine, out.absolute()
        ): mine
        for (_, gpus), mine in shares.items()
    }
    failures: dict[str, str] = {}
    finished = 0
    while pending:
        done, _ = ray.wait(list(pending), num_returns=1)
        mine = pending.pop(done[0])
        try:
            failures |= ray.get(done[0])
        except ray.exceptions.RayError as error:
            reason = f"its worker failed: {str(error).strip().splitlines()[0]}"
            failures |= {cell.label: reason for cell in mine}
        finished += len(mine)
        name = printable(mine[0].model.pretrained)
        logger.warning("[%d/%d] %s: %d cells finished", finished, len(cells), name, len(mine))
    return failures
