"""What is known of MME. Source: BradyFU/Awesome-MLLM, arXiv 2306.13394."""

from __future__ import annotations

from shiftdc_eval.tasks.info import TaskInfo

DATASET = "lmms-lab-encoder/MME"
REVISION = "d6c9023f017b564f7b3ccccf5348166bce8fdbcd"
FILES = "the authors' MME_Benchmark/, or a copy of the hub repository,"

TASKS: tuple[TaskInfo, ...] = (
    TaskInfo(
        name="shiftdc_mme",
        version=1,
        about="yes/no questions in pairs about 1,187 images, 14 subtasks",
        dataset=DATASET,
        revision=REVISION,
        licence="not stated",
        citation="Fu et al., arXiv 2306.13394",
        size=2374,
        metric="mme_total",
        utility=True,
        defects=(
            "the official parser reads four characters: 'Not sure' and 'Now' are no, a refusal is merely wrong; "
            "`/mme_strict` reads the word and tells refusals apart",
            "published numbers mix perception alone, the sum, and a share of 2800",
        ),
    ),
)
