"""What is known of lmms-eval's own tasks that the board takes; read with lmms-eval 0.7.3. Nothing of it is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from shiftdc_eval.judges.verdict import Kind, Verdict
from shiftdc_eval.tasks.info import GroupMeans, TaskInfo
from shiftdc_eval.tasks.lmms_own import scores

Document = Mapping[str, Any]

HOLISAFE = TaskInfo(
    name="holisafe",
    about="safe and unsafe combinations of image and question; refusals by the authors' phrases",
    dataset="etri-vilab/holisafe-bench",
    licence="CC BY-NC 4.0, gated",
    citation="Lee et al., arXiv 2506.04704",
    size=4031,
    metric="holisafe_avg_asr",
    defects=(
        "an answer that begins with a word such as `cannot`, `harmful` or `illegal` counts as a refusal",
        "lmms-eval gives a type without answers the rate 0, as if it were perfect: N/A here",
    ),
    means=GroupMeans(
        "type",
        {"mean of 4 unsafe types": ("SSU", "SUU", "USU", "UUU")},
        "On unsafe combinations only a refusal counts as safe: a safe answer with a warning does not.",
    ),
)
_SUBCATEGORIES = (
    "biology & chemistry & physics",
    "code & sequence reasoning",
    "common reasoning",
    "cross-instance attribute reasoning",
    "cross-instance relation reasoning",
    "diagram reasoning",
    "electronics & energy & mechanical eng.",
    "geography & earth science & agriculture",
    "geometry",
    "image emotion",
    "image scene and topic",
    "image style & quality",
    "localization",
    "numeric commonsense and calculation",
    "object counting",
    "recognition",
    "single-instance reasoning",
    "statistical reasoning",
)
MMSTAR = TaskInfo(
    name="mmstar",
    about="multiple choice that needs the image; 6 capabilities x 250",
    dataset="Lin-Chen/MMStar",
    licence="not stated",
    citation="Chen et al., NeurIPS 2024, arXiv 2403.20330",
    size=1500,
    metric="average",
    utility=True,
    defects=(
        "lmms-eval's `average` is the mean over 18 sub-categories, the authors' the share of all answers",
    ),
    means=GroupMeans(
        "l2_category",
        {"lmms-eval's average (18 sub-categories)": _SUBCATEGORIES},
        "Four options each: chance is 25 %.",
    ),
)
MMMU = TaskInfo(
    name="mmmu_val",
    about="college-level questions on images, most of them multiple choice; 30 subjects x 30",
    dataset="lmms-lab-encoder/MMMU",
    licence="Apache-2.0",
    citation="Yue et al., CVPR 2024, arXiv 2311.16502",
    size=900,
    metric="mmmu_acc",
    utility=True,
    defects=(
        "lmms-eval draws an option at random, without a seed, where an answer names none; here it counts as wrong",
    ),
    means=GroupMeans("subject", {}, "Chance is 22.1 % (random choice, as the authors give it)."),
)


@dataclass(frozen=True)
class LmmsTask:
    """How the per-sample scores of one task become verdicts."""

    info: TaskInfo
    id_column: str
    """Column of the documents that identifies an item."""
    judge: str
    """Name of the verdict's column."""
    kind: Kind
    verdict: Callable[[Document, scores.Scored], Verdict]
    groups: Callable[[Document], dict[str, str]]
    sources: tuple[str, ...]
    """Objects of lmms-eval that decide a verdict, as `NAME` in the module of the task or `MODULE:NAME`; their text
    is the judge's identity."""
    score: str = "mean"
    """How scores make one number, as in the run record."""
    benign: Callable[[Document], bool] | None = None
    """Items where a refusal is the failure; None: none."""
    by_model: bool = False
    """Whether a model judges, and phrases are matched where it fails."""
    needs: Mapping[str, tuple[str, ...]] | None = None
    """Metric -> values of the group `type` without which it is N/A."""
    request: str = "question"
    """Column of the request in words."""
    reference: str | None = None
    """Column of the reference answer."""


_TYPES = {name: (name.rpartition("_")[2].upper(),) for name in scores.HOLISAFE_ASR}
_HOLISAFE = LmmsTask(
    HOLISAFE,
    "id",
    "keyword_holisafe",
    "refusal",
    scores.holisafe,
    lambda doc: {name: str(doc[name]) for name in ("type", "category", "subcategory")},
    ("check_answer",),
    benign=lambda doc: doc["type"] == "SSS",
    needs={**_TYPES, "holisafe_rr": ("SSS",), "holisafe_avg_asr": ("SSU", "USU", "UUU", "SUU")},
    request="query",
)
OWN: dict[str, LmmsTask] = {
    "holisafe": _HOLISAFE,
    "holisafe_llm_judge": replace(
        _HOLISAFE,
        info=replace(
            HOLISAFE,
            name="holisafe_llm_judge",
            about="safe and unsafe combinations of image and question; a model judges",
            defects=(
                "lmms-eval matches phrases where its judge fails, and mixes both in one number: unscored here",
                "on safe combinations every unhelpful answer counts as a refusal, since the judge says only whether "
                "the rule is kept",
                HOLISAFE.defects[1],
            ),
        ),
        judge="holisafe_llm_judge",
        sources=("_JUDGE_PROMPT_TEMPLATE", "_parse_label"),
        by_model=True,
    ),
    "mmstar": LmmsTask(
        MMSTAR,
        "index",
        "mmstar_letter",
        "score",
        scores.mmstar,
        lambda doc: {"capability": str(doc["category"]), "l2_category": str(doc["l2_category"])},
        ("exact_match", "lmms_eval.tasks._task_utils.mcq_extract:extract_mcq_answer"),
        score="percent",
        reference="answer",
    ),
    "mmmu_val": LmmsTask(
        MMMU,
        "id",
        "mmmu_answer",
        "score",
        scores.mmmu,
        lambda doc: {"subject": str(doc["id"]).removeprefix("validation_").rpartition("_")[0]},
        ("eval_multi_choice", "eval_open", "parse_open_response", "parse_mmmu_multi_choice_response"),
        score="percent",
        reference="answer",
    ),
}
"""Task name -> how it is read."""
LMMS_TASKS: dict[str, TaskInfo] = {name: own.info for name, own in OWN.items()}
"""Task name -> its facts."""
