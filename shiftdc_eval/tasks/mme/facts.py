"""Facts about MME. Source: BradyFU/Awesome-MLLM, arXiv 2306.13394."""

from __future__ import annotations

from shiftdc_eval.tasks.info import GroupMeans, TaskInfo

DATASET = "lmms-lab-encoder/MME"
REVISION = "d6c9023f017b564f7b3ccccf5348166bce8fdbcd"
FILES = "the authors' MME_Benchmark/, or a copy of the hub repository,"

PERCEPTION = {
    "existence": 60,
    "count": 60,
    "position": 60,
    "color": 60,
    "posters": 294,
    "celebrity": 340,
    "scene": 400,
    "landmark": 400,
    "artwork": 400,
    "OCR": 40,
}
COGNITION = {
    "commonsense_reasoning": 140,
    "numerical_calculation": 40,
    "text_translation": 40,
    "code_reasoning": 40,
}
"""Subtask -> questions, two an image."""

TASKS: tuple[TaskInfo, ...] = (
    TaskInfo(
        name="shiftdc_mme",
        about="yes/no questions in pairs about 1,187 images, 14 subtasks",
        dataset=DATASET,
        revision=REVISION,
        licence="not stated",
        citation="Fu et al., arXiv 2306.13394",
        size=2374,
        metric="mme_total",
        utility=True,
        parts=PERCEPTION | COGNITION,
        means=GroupMeans("subtask", {}, "", summed=(*PERCEPTION, *COGNITION)),
        defects=(
            "the official parser reads four characters: 'Not sure' and 'Now' are no, a refusal is merely wrong; "
            "`/mme_strict` reads the word and tells refusals apart",
            "published numbers mix perception alone, the sum, and a share of 2800",
        ),
    ),
)
