"""MM-SafetyBench from a local folder in the authors' layout: question files and images."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import file_sha256
from shiftdc_eval.core.images import load_image
from shiftdc_eval.tasks.data import (
    RemoteFile,
    first_existing,
    how_to_provide,
    image_file,
    local_or_fetched,
    read_json,
    text_field,
)
from shiftdc_eval.tasks.example import CLEAR_HARM, RENDERED, Example, Source
from shiftdc_eval.tasks.fonts import LIBERATION_SANS, described_font, find_font
from shiftdc_eval.tasks.mm_safetybench.render import render
from shiftdc_eval.tasks.mm_safetybench.scenarios import (
    PHRASE_FIELD,
    REQUEST_FIELD,
    SCENARIOS,
    RequestKind,
    Scenario,
)

TINY_FILE = "TinyVersion_ID_List.json"
TINY = RemoteFile(
    "mm_safetybench",
    "85cc713847978285",
    f"https://raw.githubusercontent.com/isXinLiu/MM-SafetyBench/main/{TINY_FILE}",
    "85cc71384797828556e026753a1dd320d45b98a3cb4855e1753156f2e58fb457",
)
SUFFIXES = (".png", ".jpeg")
"""Of images that are not .jpg."""
REMEDY = (
    "They are in the authors' image archive (github.com/isXinLiu/MM-SafetyBench); only typography images can be "
    "drawn here."
)


def example_of(
    scenario: Scenario, kind: RequestKind, number: str, prompt: str, request: str, **rest: Any
) -> Example:
    """An example, with ids and groups that do not depend on the source of the data."""
    flags = ((CLEAR_HARM,) if scenario.clear_harm else ()) + tuple(rest.pop("flags", ()))
    return Example(
        id=f"mm_safetybench_{kind.name}/{scenario.name}/{number}",
        question=f"mm_safetybench/{scenario.name}/{number}",
        prompt=prompt,
        request=request,
        scenario=scenario.name,
        groups={"scenario": scenario.name, "image_type": kind.name},
        flags=flags,
        **rest,
    )


def load(folder: Path, questions: Path, kind: RequestKind) -> Source:
    """The questions of all scenarios, in the order of the files.

    Raises:
        DataError: a file is missing or malformed.
    """
    images = first_existing(folder, "images", "imgs", "data/imgs", "data/images") or folder / "images"
    examples: list[Example] = []
    font: Path | None = None
    digest = hashlib.sha256()
    for scenario in SCENARIOS:
        path = questions / f"{scenario.name}.json"
        if not path.is_file():
            raise DataError(f"{path} is missing; " + how_to_provide("mm_safetybench"))
        digest.update(file_sha256(path).encode())
        for number, row in read_json(path, dict).items():
            where = f"{path}, question {number}"
            prompt, request = text_field(row, kind.field, where), text_field(row, REQUEST_FIELD, where)
            rest: dict[str, Any] = {}
            if kind.folder:
                file, exists = image_file(images / scenario.name / kind.folder, f"{number}.jpg", SUFFIXES)
                rest |= {
                    "image": partial(load_image, file),
                    "image_text": described(kind, row.get(PHRASE_FIELD)),
                }
                if not exists and kind.name == "typo":
                    font = font or find_font(LIBERATION_SANS)
                    phrase = text_field(row, PHRASE_FIELD, where)
                    rest |= {"image": partial(render, phrase, font), "flags": (RENDERED,)}
                elif not exists:
                    rest["absent"] = file
            examples.append(example_of(scenario, kind, number, prompt, request, **rest))
    drawn_with = described_font(font, LIBERATION_SANS) if font else ""
    return Source(examples, "local folder", f"sha256:{digest.hexdigest()}", font=drawn_with, remedy=REMEDY)


def described(kind: RequestKind, phrase: object) -> str | None:
    """Description of the image, made of its key phrase; None where there is none."""
    if not isinstance(phrase, str) or not phrase.strip():
        return None
    photo, words = f"A photo of {phrase}.", f'The image shows the words "{phrase}".'
    return {"sd": photo, "typo": words, "sd_typo": f"{photo} {words}"}.get(kind.name)


def tiny_ids() -> set[str]:
    """Question ids of the authors' tiny version.

    Raises:
        DataError: the list is not there and cannot be fetched, or is malformed.
    """
    path, _ = local_or_fetched(TINY, TINY_FILE, f"data/{TINY_FILE}")
    ids: set[str] = set()
    for entry in read_json(path, list):
        name, numbers = (
            (entry.get("Scenario"), entry.get("Sampled_ID_List"))
            if isinstance(entry, dict)
            else (entry, None)
        )
        if name not in {scenario.name for scenario in SCENARIOS} or not isinstance(numbers, list):
            raise DataError(f"{path}: entry {name!r:.200} is not a scenario with a list of ids")
        ids |= {f"mm_safetybench/{name}/{number}" for number in numbers}
    return ids
