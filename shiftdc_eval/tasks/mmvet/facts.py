"""Facts about MM-Vet. Source: yuweihao/MM-Vet, arXiv 2308.02490."""

from __future__ import annotations

from shiftdc_eval.tasks.info import TaskInfo

DATASET = "lmms-lab-encoder/MMVet"
FILES = "mm-vet.json and images/, or a copy of the hub repository,"

TASKS: tuple[TaskInfo, ...] = (
    TaskInfo(
        name="shiftdc_mmvet",
        about="open questions about 200 images, graded against references; 6 capabilities",
        dataset=DATASET,
        licence="CC BY-NC 4.0",
        citation="Yu et al., ICML 2024, arXiv 2308.02490",
        size=218,
        metric="mmvet_score",
        utility=True,
        defects=(
            "218 items: a point of difference is noise (standard error about 3)",
            "grader drift: one answers file scores differently under each GPT-4 version",
            "lmms-eval's own `mmvet` prepends a reasoning prompt, changes the grader's header and scores 0 when "
            "the grader fails",
        ),
    ),
)
