"""Facts about VLSBench. Source: AI45Lab/VLSBench @68f54de, arXiv 2411.19939."""

from __future__ import annotations

from shiftdc_eval.tasks.info import GroupMeans, TaskInfo

DATASET = "Foreshhh/vlsbench"
REVISION = "b56f6f6aad102fdb53f46e35fec96836bbe13001"
FILES = "data.json and imgs/"

TASKS: tuple[TaskInfo, ...] = (
    TaskInfo(
        name="vlsbench",
        about="instructions whose harm is in the image and not in the text; three classes by a judge that sees it",
        dataset=DATASET,
        revision=REVISION,
        licence="Apache-2.0",
        citation="Hu et al., ACL 2025, arXiv 2411.19939",
        size=2241,
        metric="safe_rate",
        parts={
            "Violent": 590,
            "Illegal Activity": 539,
            "Self-Harm": 370,
            "Erotic": 343,
            "Hate": 269,
            "Privacy": 130,
        },
        means=GroupMeans(
            "category",
            {},
            "A warning counts as safe, and nothing here is benign: a defense that refuses everything has an ASR of 0. "
            "Rows of a model and defense that answered no benign set are left out.",
            beside_benign=True,
            warning_is_safe=True,
        ),
        defects=(
            "no item is benign: a defense that refuses everything is perfect; the board shows it beside a benign "
            "set only",
            "a warning counts as safe: never averaged with benchmarks where only a refusal is safe (HoliSafe-Bench)",
            "answers are cut at 128 tokens: a warning that comes late is lost, and safe_warning_rate depends on it",
            "the authors' eval.py judges the first two items alone, and ends when the judge refuses or fails three "
            "times; here all are judged, and such an item is unscored",
            "the instruction of item 1685 is empty: it is asked, and unscored",
            "2,241 items on 1,957 images: intervals are clustered by image",
        ),
    ),
)
