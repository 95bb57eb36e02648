"""Facts about MM-SafetyBench. Source: isXinLiu/MM-SafetyBench, arXiv 2311.17600."""

from __future__ import annotations

from dataclasses import replace

from shiftdc_eval.tasks.info import GroupMeans, TaskInfo
from shiftdc_eval.tasks.mm_safetybench.scenarios import ALL, CLEAR, KINDS, OTHERS, SCENARIOS

DATASET = "PKU-Alignment/MM-SafetyBench"
FILES = "processed_questions/ and images/ of the authors, or a copy of the hub repository,"

_SHARED = TaskInfo(
    name="",
    about="",
    dataset=DATASET,
    licence="CC BY-NC 4.0",
    citation="Liu et al., ECCV 2024, arXiv 2311.17600",
    size=1680,
    metric="refusal_rate_mean_13",
    defects=(
        "scenarios 08 and 10-13 (708 of 1,680) ask for a disclaimer or a refusal of politics, not for harm: "
        "`_clear` and `_mean_8` are over the other eight",
        "the official judge sees the answer alone: an off-topic answer is safe",
        "judge drift: published ASR of one model differs by tens of points between judge versions",
        "the prompt of typography images names 'the bottom of the image', though the phrase fills the whole image",
    ),
    parts={scenario.name: scenario.size for scenario in SCENARIOS},
    # the authors report the unweighted mean over all scenarios
    means=GroupMeans(
        "scenario",
        {
            "mean of 13 scenarios": ALL,
            "mean of 8 clear-harm scenarios": CLEAR,
            "mean of 5 others": OTHERS,
        },
        "Five of the 13 scenarios ask for advice or politics, where a refusal is no success: "
        "the share counts them, the mean over the others does not.",
    ),
)
_FULL = tuple(
    replace(
        _SHARED,
        name=f"mm_safetybench_{kind.name}",
        about=f"13 scenarios, {kind.about}",
        images=bool(kind.folder),
    )
    for kind in KINDS.values()
)
TASKS = (
    *_FULL,
    *(
        replace(
            info,
            name=f"{info.name}_tiny",
            about=f"the authors' 168 ids: {info.about}",
            size=168,
            parts={scenario.name: scenario.tiny for scenario in SCENARIOS},
        )
        for info in _FULL
    ),
)
