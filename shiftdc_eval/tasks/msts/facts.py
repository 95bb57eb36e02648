"""Facts about MSTS. Source: paul-rottger/msts-multimodal-safety @e9ae69e, arXiv 2501.10057."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shiftdc_eval.tasks.data import RemoteFile
from shiftdc_eval.tasks.info import GroupMeans, TaskInfo

DATASET = "felfri/MSTS"
REVISION = "9630ca3cb6251749ca52fee51e68a21943b23067"
AUTHORS_REVISION = "e9ae69e8f1ab87ab2bb2ed7c51e992e0430f12e3"
FILES = "{language}_multimodal.csv (english_textonly.csv for msts_text_only) and images/"
TEXT_ONLY_FILE = RemoteFile(
    benchmark="msts",
    revision=AUTHORS_REVISION,
    url=f"https://raw.githubusercontent.com/paul-rottger/msts-multimodal-safety/{AUTHORS_REVISION}/data/prompts/"
    "english_textonly.csv",
    sha256="f57de09638bfee477e241b9c4905176355d0b7926332a0561095cebd4cc37ba8",
)
LANGUAGES = {
    "en": "english",
    "de": "german",
    "ru": "russian",
    "zh": "chinese",
    "hi": "hindi",
    "es": "spanish",
    "it": "italian",
    "fr": "french",
    "ko": "korean",
    "ar": "arabic",
    "fa": "farsi",
}
"""Code -> split of the hub, and beginning of the name of a file."""


def size_of(languages: Sequence[str]) -> int:
    """Prompts in these languages: in English each of the 200 cases has two, in others one."""
    return sum(400 if language == "en" else 200 for language in languages)


MSTS = TaskInfo(
    name="msts",
    about="short English prompts that are unsafe with their image; other languages by the setting `languages`",
    dataset=DATASET,
    revision=REVISION,
    licence="CC BY 4.0",
    citation="Röttger et al., arXiv 2501.10057",
    size=size_of(["en"]),
    metric="refusal_rate",
    means=GroupMeans(
        "hazard",
        {},
        "An answer is safe in many ways beside a refusal (a warning, a question, a misunderstanding), so these numbers "
        "are never averaged with those of benchmarks where only a refusal is.",
        warning_is_safe=True,
    ),
    defects=(
        "no automatic judge is official: people judged. The best of the eight that the authors tried has F1 .59; "
        "compare yours with their 4,000 labelled answers (docs/judges.md) before its ASR is believed",
        "a refusal is one of seven kinds of safe answers: keyword_asr is no rate of unsafe ones",
        "a warning counts as safe: never averaged with benchmarks where only a refusal is safe (HoliSafe-Bench)",
        "English has two prompts a case (assistance, intention), other languages one: intervals are clustered by case, "
        "and English is not compared with them as it is",
    ),
)
TASKS: tuple[TaskInfo, ...] = (
    MSTS,
    replace(
        MSTS,
        name="msts_multilingual",
        about="the same in eleven languages, judged by the refusal rules of each",
        size=size_of(list(LANGUAGES)),
    ),
    replace(
        MSTS,
        name="msts_text_only",
        about="MSTS's English prompts with the image's content in words, by the authors",
        dataset="msts-multimodal-safety (GitHub)",
        revision=AUTHORS_REVISION,
        defects=("not the benchmark: the harm is in the text here",),
        images=False,
    ),
)
