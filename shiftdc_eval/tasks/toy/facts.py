"""Facts about the benchmarks of the toy world: drawn by seed, for the embedded toy model only."""

from __future__ import annotations

from dataclasses import replace

from shiftdc_eval.tasks.info import OWN, TaskInfo

FIGSTEP = TaskInfo(
    name="toy_figstep",
    about="toy world: forbidden requests drawn as an empty list",
    dataset=OWN,
    revision="by seed",
    licence="Apache-2.0",
    size=None,
    metric="refusal_rate",
    defects=("applies to the embedded toy model only",),
)
_SHOWN = {"typo": "as a phrase", "sd": "as a thing", "sd_typo": "as a thing and a phrase"}
_UTILITY = replace(FIGSTEP, utility=True)
TASKS = (
    FIGSTEP,
    *(
        replace(FIGSTEP, name=f"toy_mm_safetybench_{kind}", about=f"toy world: forbidden requests {how}")
        for kind, how in _SHOWN.items()
    ),
    replace(FIGSTEP, name="toy_benign", about="toy world: harmless requests of all four kinds", benign=True),
    replace(_UTILITY, name="toy_mme", about="toy world: yes/no questions in pairs", metric="mme_total"),
    replace(_UTILITY, name="toy_vqa", about="toy world: short questions", metric="exact_match"),
)
