"""Every task as data: where it comes from, under which licence, how large it is, what is known to be wrong.

A corrected task is a new version, never an edit. Facts and sources: each benchmark's paper and
repository, as named in `source` and `citation`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class TaskInfo:
    """What is known of a task before its data is loaded."""

    name: str
    """lmms-eval task name."""
    version: int
    """Version of the task's prompt and scoring."""
    about: str
    """One line: what is asked of the model."""
    dataset: str
    """Hub id or repository of the data."""
    revision: str
    """Pinned revision; `at run time` where it is resolved then and recorded."""
    licence: str
    """Licence of the data."""
    citation: str
    """Where the benchmark was published."""
    size: int | None
    """Items the full task has; None where a setting says how many are drawn."""
    metric: str
    """Main number, by its name in lmms-eval's table."""
    benign: bool = False
    """True for an over-refusal twin, where a refusal is the failure."""
    defects: tuple[str, ...] = ()
    """What is known to be wrong with the protocol."""


FIGSTEP_REVISION = "0861b17b3d67887c06ee3534ec65b3012f9becb7"
XSTEST_REVISION = "d7bb5bd738c1fcbc36edd83d5e7d1b71a3e2d84d"
MME_REVISION = "d6c9023f017b564f7b3ccccf5348166bce8fdbcd"
RESOLVED = "at run time"
OWN = "this package"

_FIGSTEP = TaskInfo(
    name="figstep",
    version=1,
    about="harmful instruction drawn as an empty list, innocuous text prompt; 10 topics x 50",
    dataset="ThuCCSLab/FigStep",
    revision=FIGSTEP_REVISION,
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
)

_MM_SAFETYBENCH = TaskInfo(
    name="mm_safetybench_sd",
    version=1,
    about="",
    dataset="PKU-Alignment/MM-SafetyBench",
    revision=RESOLVED,
    licence="CC BY-NC 4.0",
    citation="Liu et al., ECCV 2024, arXiv 2311.17600",
    size=1680,
    metric="refusal_rate_mean_13",
    defects=(
        "scenarios 08 and 10-13 (708 of 1,680) ask for a disclaimer or a refusal of politics, not for harm: "
        "`_clear` and `_mean_8` are over the other eight",
        "the official judge sees the answer alone: an off-topic answer is safe",
        "judge drift: published ASR of one model differs by tens of points between judge versions",
        "typography text says 'the bottom of the image' where the image has no bottom",
    ),
)
_KINDS = {
    "sd": "a picture of the key phrase by a diffusion model",
    "typo": "a picture of the key phrase as text",
    "sd_typo": "both pictures, one above the other",
    "text_only": "the question as text, without an image",
}
_XSTEST = TaskInfo(
    name="xstest_safe",
    version=1,
    about="safe prompts that look unsafe; text only",
    dataset="paul-rottger/exaggerated-safety",
    revision=XSTEST_REVISION,
    licence="CC BY 4.0",
    citation="Röttger et al., NAACL 2024, arXiv 2308.01263",
    size=250,
    metric="refusal_rate",
    benign=True,
    defects=("text only: it measures what a defense does to requests without an image",),
)
_MOSSBENCH = TaskInfo(
    name="mossbench",
    version=1,
    about="harmless questions about images that make models refuse; 3 types x 100",
    dataset="AIcell/MOSSBench",
    revision=RESOLVED,
    licence="CC BY-SA 4.0",
    citation="Li et al., ICLR 2025, arXiv 2406.17806",
    size=300,
    metric="refusal_rate",
    benign=True,
    defects=("the official judge is GPT-4-turbo with the image; keyword lists stand in by default",),
)
_MME = TaskInfo(
    name="shiftdc_mme",
    version=1,
    about="yes/no questions in pairs about 1,187 images, 14 subtasks",
    dataset="lmms-lab-encoder/MME",
    revision=MME_REVISION,
    licence="not stated",
    citation="Fu et al., arXiv 2306.13394",
    size=2374,
    metric="mme_total",
    defects=(
        "the official parser reads four characters: 'Not sure' and 'Now' are no, a refusal is merely wrong; "
        "`/mme_strict` reads the word and tells refusals apart",
        "published numbers mix perception alone, the sum, and a share of 2800",
    ),
)
_MMVET = TaskInfo(
    name="shiftdc_mmvet",
    version=1,
    about="open questions about 200 images, graded against references; 6 capabilities",
    dataset="lmms-lab-encoder/MMVet",
    revision=RESOLVED,
    licence="CC BY-NC 4.0",
    citation="Yu et al., ICML 2024, arXiv 2308.02490",
    size=218,
    metric="mmvet_score",
    defects=(
        "218 items: a point of difference is noise (standard error about 3)",
        "grader drift: one answers file scores differently under each GPT-4 version",
        "lmms-eval's own `mmvet` prepends a reasoning prompt, changes the grader's header and scores 0 when "
        "the grader fails",
    ),
)


def _mm_safetybench() -> list[TaskInfo]:
    full = [
        replace(_MM_SAFETYBENCH, name=f"mm_safetybench_{kind}", about=f"13 scenarios, {what}")
        for kind, what in _KINDS.items()
    ]
    tiny = [
        replace(info, name=f"{info.name}_tiny", about=f"the authors' 168 ids: {info.about}", size=168)
        for info in full
    ]
    return [*full, *tiny]


_TOY = TaskInfo(
    name="toy_figstep",
    version=1,
    about="toy world: forbidden requests drawn as an empty list",
    dataset=OWN,
    revision="by seed",
    licence="Apache-2.0",
    citation="",
    size=None,
    metric="refusal_rate",
    defects=("about the embedded toy model alone",),
)


def _toy() -> list[TaskInfo]:
    shown = {
        "typo": "as a phrase",
        "sd": "as a thing",
        "sd_typo": "as a thing and a phrase",
    }
    return [
        _TOY,
        *(
            replace(_TOY, name=f"toy_mm_safetybench_{kind}", about=f"toy world: forbidden requests {how}")
            for kind, how in shown.items()
        ),
        replace(_TOY, name="toy_benign", about="toy world: harmless requests of all four kinds", benign=True),
        replace(_TOY, name="toy_mme", about="toy world: yes/no questions in pairs", metric="mme_total"),
        replace(_TOY, name="toy_vqa", about="toy world: short questions", metric="exact_match"),
    ]


TASKS: dict[str, TaskInfo] = {
    info.name: info
    for info in (
        _FIGSTEP,
        replace(_FIGSTEP, name="figstep_tiny", about="tasks 1-5 of each FigStep topic", size=50),
        TaskInfo(
            name="figstep_benign",
            version=1,
            about="benign instructions drawn in the style of FigStep",
            dataset=OWN,
            revision="with the package",
            licence="Apache-2.0",
            citation="",
            size=50,
            metric="refusal_rate",
            benign=True,
        ),
        *_mm_safetybench(),
        _XSTEST,
        replace(
            _XSTEST,
            name="xstest_unsafe",
            about="unsafe prompts that contrast with the safe ones; text only",
            size=200,
            benign=False,
        ),
        _MOSSBENCH,
        replace(
            _MOSSBENCH,
            name="mossbench_text_only",
            about="MOSSBench's questions without their images",
            defects=("not the benchmark: what makes models refuse is in the images",),
        ),
        _MME,
        _MMVET,
        *_toy(),
    )
}
"""Task name -> what is known of it."""
