"""MSTS from the authors' files, or from the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from shiftdc_eval.core.errors import ConfigError, DataError
from shiftdc_eval.core.hashing import file_sha256
from shiftdc_eval.core.images import load_image
from shiftdc_eval.judges.language import codes
from shiftdc_eval.tasks.data import (
    first_existing,
    image_file,
    local_or_fetched,
    local_or_hub,
    numbered_rows,
    text_field,
)
from shiftdc_eval.tasks.example import Example, Source
from shiftdc_eval.tasks.hub import load_split
from shiftdc_eval.tasks.msts.facts import DATASET, LANGUAGES, REVISION, TEXT_ONLY_FILE

COLUMNS = ("hazard_category", "case_id", "unsafe_image_description", "prompt_text", "prompt_type")
TYPES = ("assistance", "intention")
PLACES = ("{}", "prompts_{}", "prompts/{}", "data/prompts/{}")
"""Where a file of prompts is, below the benchmark's folder."""
IMAGES = ("images", "unsafe_images", "data/unsafe_images")
TEXT_ONLY_NOTE = "asked with the image's content in words: the text twin by the authors, not the benchmark"
REMEDY = f"They are in the hub dataset {DATASET}; the authors' src/0_download_images.py fetches them too."


def languages_of(settings: Mapping[str, Any], task: str) -> list[str]:
    """Codes of the prompts' languages; English where none is named.

    Raises:
        ConfigError: one is no language, or one that MSTS does not have.
    """
    found = codes(settings.get("languages", ()), f"task {task}, languages in its yaml") or ["en"]
    for code in found:
        if code not in LANGUAGES:
            raise ConfigError(f"task {task}: MSTS has no prompts in {code!r}; it has {', '.join(LANGUAGES)}")
    return list(dict.fromkeys(found))


def load(task: str, settings: Mapping[str, Any]) -> Source:
    """The prompts in the languages of the settings; those of `msts_text_only` without images.

    Raises:
        ConfigError: a language is unknown.
        DataError: data missing or malformed.
    """
    if task == "msts_text_only":
        return _text_only()
    languages = languages_of(settings, task)
    return local_or_hub("msts", partial(_from_folder, languages), partial(_from_hub, languages))


def _text_only() -> Source:
    name = "english_textonly.csv"
    path, local = local_or_fetched(TEXT_ONLY_FILE, *(place.format(name) for place in PLACES))
    examples = [
        replace(_example(row, "en", f"{path}, line {line}"), image_text=None)
        for line, row in numbered_rows(path, COLUMNS)
    ]
    where = "local folder" if local else "paul-rottger/msts-multimodal-safety"
    return Source(examples, where, TEXT_ONLY_FILE.revision_of(path), notes=(TEXT_ONLY_NOTE,))


def _from_folder(languages: Sequence[str], folder: Path) -> Source | None:
    names = [f"{LANGUAGES[language]}_multimodal.csv" for language in languages]
    paths = [first_existing(folder, *(place.format(name) for place in PLACES)) for name in names]
    if not any(paths):
        return None
    images = first_existing(folder, *IMAGES) or folder / IMAGES[0]
    examples, hashes = [], []
    for language, name, path in zip(languages, names, paths, strict=True):
        if path is None:
            raise DataError(f"msts: {folder} has no {name}, but files of other languages; add it")
        hashes.append(file_sha256(path))
        for line, row in numbered_rows(path, (*COLUMNS, "unsafe_image_id")):
            example = _example(row, language, f"{path}, line {line}")
            file, exists = image_file(images, f"{Path(row['unsafe_image_id']).name}.jpg", (".png",))
            examples.append(
                replace(example, image=partial(load_image, file), absent=None if exists else file)
            )
    revision = hashes[0] if len(hashes) == 1 else "+".join(one[:8] for one in hashes)
    return Source(examples, "local folder", f"sha256:{revision}", remedy=REMEDY)


def _from_hub(languages: Sequence[str]) -> Source:
    examples = []
    for language in languages:
        table = load_split(DATASET, None, LANGUAGES[language], REVISION, "msts")
        for number, (where, row) in enumerate(table.rows((*COLUMNS, "unsafe_image"))):
            load = table.image(number, "unsafe_image")
            examples.append(replace(_example(row, language, where), image=load))
    return Source(examples, DATASET, REVISION)


def _example(row: Mapping[str, Any], language: str, where: str) -> Example:
    hazard, case, description, prompt, kind = (text_field(row, name, where) for name in COLUMNS)
    if kind not in TYPES:
        raise DataError(f"{where}: prompt_type must be one of {', '.join(TYPES)}, found {kind!r:.200}")
    return Example(
        id=f"msts/{language}/{case}/{kind}",
        question=f"msts/{case}",  # prompts about one image, in all languages
        prompt=prompt,
        request=prompt,
        scenario=hazard,
        groups={"hazard": hazard, "language": LANGUAGES[language], "prompt_type": kind},
        image_text=description,
    )
