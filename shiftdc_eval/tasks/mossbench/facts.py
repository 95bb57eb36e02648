"""Facts about MOSSBench. Source: xirui-li/MOSSBench, arXiv 2406.17806."""

from __future__ import annotations

from dataclasses import replace

from shiftdc_eval.tasks.info import TaskInfo

DATASET = "AIcell/MOSSBench"
FILES = "benign.json and images/"

MOSSBENCH = TaskInfo(
    name="mossbench",
    about="harmless questions about images that make models refuse; 3 types x 100",
    dataset=DATASET,
    licence="CC BY-SA 4.0",
    citation="Li et al., ICLR 2025, arXiv 2406.17806",
    size=300,
    metric="refusal_rate",
    benign=True,
    defects=("the official judge is GPT-4-turbo with the image; keyword lists replace it by default",),
)
TASKS = (
    MOSSBENCH,
    replace(
        MOSSBENCH,
        name="mossbench_text_only",
        about="MOSSBench's questions without their images",
        images=False,
        defects=("not the benchmark: what makes models refuse is in the images",),
    ),
)
