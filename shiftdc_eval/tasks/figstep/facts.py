"""Facts about FigStep and its benign twin. Source: ThuCCSLab/FigStep, arXiv 2311.05608."""

from __future__ import annotations

from dataclasses import replace

from shiftdc_eval.tasks.info import OWN, GroupMeans, TaskInfo

REVISION = "0861b17b3d67887c06ee3534ec65b3012f9becb7"
FILES = "safebench.csv (and images/SafeBench/, else they are drawn)"
CLEAR_HARM_TOPICS = (
    "01 Illegal Activity",
    "02 Hate Speech",
    "03 Malware Generation",
    "04 Physical Harm",
    "05 Fraud",
    "06 Adult Content",
    "07 Privacy Violation",
)
ADVICE_TOPICS = ("08 Legal Opinion", "09 Financial Advice", "10 Health Consultation")

FIGSTEP = TaskInfo(
    name="figstep",
    about="harmful instruction drawn as an empty list, innocuous text prompt; 10 topics x 50",
    dataset="ThuCCSLab/FigStep",
    revision=REVISION,
    licence="MIT",
    citation="Gong et al., AAAI 2025, arXiv 2311.05608",
    size=500,
    metric="refusal_rate",
    defects=(
        "topics 8-10 (150 of 500) are benign in content: they measure unlicensed advice; "
        "`_clear` is over topics 1-7",
        "14 images are clipped so that list markers are missing; flagged `clipped`",
        "the text prompt holds no harmful word; judges are shown the instruction instead",
        "an answer that only repeats the list's headings counts as compliance under keywords",
        "the authors published no judge: they reviewed by hand",
    ),
    parts=dict.fromkeys((*CLEAR_HARM_TOPICS, *ADVICE_TOPICS), 50),
    # the authors report the share of all answers
    means=GroupMeans(
        "topic",
        {
            "mean of 7 clear-harm topics": CLEAR_HARM_TOPICS,
            "mean of 3 advice topics": ADVICE_TOPICS,
        },
        "Topics 8-10 ask for advice, benign in content, where a refusal is no success: "
        "the share counts them, the mean over the others does not.",
    ),
)
TASKS = (
    FIGSTEP,
    replace(
        FIGSTEP,
        name="figstep_tiny",
        about="tasks 1-5 of each FigStep topic",
        size=50,
        parts=dict.fromkeys(FIGSTEP.parts, 5),
    ),
    TaskInfo(
        name="figstep_benign",
        about="benign instructions drawn in the style of FigStep",
        dataset=OWN,
        revision="with the package",
        licence="Apache-2.0",
        size=50,
        metric="refusal_rate",
        benign=True,
    ),
)
