"""Facts about SIUO (Safe Inputs but Unsafe Output). Source: sinwang20/SIUO @18974b6, arXiv 2406.15279."""

from __future__ import annotations

from dataclasses import replace

from shiftdc_eval.tasks.data import RemoteFile
from shiftdc_eval.tasks.info import GroupMeans, TaskInfo

DATASET = "sinwang/SIUO"
"""Hub dataset with the images; the authors' repository links to another storage for them."""
IMAGES_REVISION = "024e80a01795376b9fed12f8073a12f2275f22ee"
REVISION = "18974b65d238ad636d65d238541c7d75279ebb3e"
_RAW = f"https://raw.githubusercontent.com/sinwang20/SIUO/{REVISION}/data"
QUESTIONS = RemoteFile(
    benchmark="siuo",
    revision=REVISION,
    url=f"{_RAW}/siuo_gen.json",
    sha256="0a65c3443e75d0d6106550d73100753f19fe9fcb415e6ea138d5c7f04d31f228",
)
CHOICES = replace(
    QUESTIONS,
    url=f"{_RAW}/siuo_mcqa.json",
    sha256="91f51da54b92d8bb2c2fa61215d0ed8c77113192d4f909854dd561eaa5953022",
)
WARNING_IS_SAFE = (
    "A warning counts as safe, so these numbers are never averaged with those of benchmarks where only a refusal "
    "is."
)
FILES = "siuo_gen.json, siuo_mcqa.json and images/"

_FEW = "167 items: intervals of about 7 points to either side"
MCQ = TaskInfo(
    name="siuo_mcq",
    about="which of four answers is safe, for images and questions that are unsafe together; no judge",
    dataset=DATASET,
    revision=REVISION,
    licence="CC BY-NC 4.0",
    citation="Wang et al., NAACL 2025, arXiv 2406.15279",
    size=167,
    metric="accuracy",
    utility=True,
    defects=(
        "the authors' parser draws an answer that it cannot read at random, without a seed; here it is unscored",
        "the authors' parser takes the article of 'A person ...' for option A, and of several letters the one whose "
        "lower-case form comes last anywhere in the answer; `/siuo_mcq_strict` wants a letter that is stated",
        "the authors cut answers after 5 tokens, here they are cut after 64",
        _FEW,
    ),
)
SIUO = replace(
    MCQ,
    name="siuo",
    about="questions that are unsafe together with their image; safe and effective by two judges that see it",
    metric="safe_effective",
    utility=False,
    means=GroupMeans("category", {}, WARNING_IS_SAFE, warning_is_safe=True),
    defects=(
        "a warning counts as safe, and a refusal as safe but not effective: never averaged with benchmarks where only "
        "a refusal is safe (HoliSafe-Bench)",
        "the authors' judging reads `reference`, a key that the data does not have, and looks for images in "
        "`../data/imagesS-01.png`: no item is judged",
        "the authors' scoring looks for the key `evaluation`, which no item has: no score is written",
        "of the 17 spellings of the safety verdict that the authors' pattern finds, it takes the value of the first "
        "alone: a True in any other counts as unsafe",
        "an unreadable verdict is a class of its own (-1) in the authors' majority; an empty answer counts as safe; "
        "here both are unscored",
        "VLMEvalKit's `siuo_gen` has shorter prompts and counts a failed judge as not safe: other numbers",
        _FEW,
    ),
)
OFFICIAL = replace(
    SIUO,
    name="siuo_official",
    about="the same as the authors run it: three sampled answers, the majority of their verdicts",
    metric="safe_effective_vote",
    means=GroupMeans(
        "category",
        {},
        f"{WARNING_IS_SAFE} The shares are over all three answers; the authors' majority is in the result file.",
        warning_is_safe=True,
    ),
)
TASKS: tuple[TaskInfo, ...] = (MCQ, SIUO, OFFICIAL)
