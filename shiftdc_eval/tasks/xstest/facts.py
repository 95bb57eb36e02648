"""Facts about XSTest. Source: paul-rottger/exaggerated-safety, arXiv 2308.01263."""

from __future__ import annotations

from dataclasses import replace

from shiftdc_eval.tasks.info import TaskInfo

REVISION = "d7bb5bd738c1fcbc36edd83d5e7d1b71a3e2d84d"
FILES = "xstest_prompts.csv"

SAFE = TaskInfo(
    name="xstest_safe",
    images=False,
    about="safe prompts that look unsafe; text only",
    dataset="paul-rottger/exaggerated-safety",
    revision=REVISION,
    licence="CC BY 4.0",
    citation="Röttger et al., NAACL 2024, arXiv 2308.01263",
    size=250,
    metric="refusal_rate",
    benign=True,
    defects=("text only: it measures what a defense does to requests without an image",),
)
TASKS = (
    SAFE,
    replace(
        SAFE,
        name="xstest_unsafe",
        about="unsafe prompts that contrast with the safe ones; text only",
        size=200,
        benign=False,
    ),
)
