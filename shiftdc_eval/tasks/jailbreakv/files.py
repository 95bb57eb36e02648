"""JailBreakV-28K's mini split from a local folder, or from the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import file_sha256, text_sha256
from shiftdc_eval.core.images import load_image
from shiftdc_eval.tasks.data import first_existing, how_to_provide, image_file, local_or_hub, numbered_rows
from shiftdc_eval.tasks.example import Example, Source
from shiftdc_eval.tasks.hub import file_of_hub, files_of_hub, image_of_hub
from shiftdc_eval.tasks.jailbreakv.facts import DATASET, IMAGE, REVISION, TEXT

CSV = "mini_JailBreakV_28K.csv"
ROOT = "JailBreakV_28K"
"""Folder of the hub dataset with the tables and, below it, the images."""
COLUMNS = (
    "id",
    "jailbreak_query",
    "redteam_query",
    "format",
    "policy",
    "image_path",
    "from",
    "transfer_from_llm",
)
ATTACKS = {"true": TEXT, "false": IMAGE}

Images = Callable[[str], Callable[[], Image.Image] | None]
"""Path of an image as the table has it -> how it is loaded; None where it is not there."""


def load(task: str, settings: Mapping[str, Any]) -> Source:
    """The items whose image is there, from a local folder, else from the hub.

    Raises:
        DataError: data missing or malformed, or no image at all.
    """
    return local_or_hub("jailbreakv", _from_folder, _from_hub)


def _from_folder(folder: Path) -> Source | None:
    path = first_existing(folder, CSV, f"{ROOT}/{CSV}")
    if path is None:
        return None

    def images(name: str) -> Callable[[], Image.Image] | None:
        file, exists = image_file(path.parent, name)
        return partial(load_image, file) if exists else None

    return _source(path, images, "local folder", f"sha256:{file_sha256(path)}")


def _from_hub() -> Source:
    path = file_of_hub(DATASET, f"{ROOT}/{CSV}", REVISION, "jailbreakv")
    held = files_of_hub(DATASET, REVISION, "jailbreakv")

    def images(name: str) -> Callable[[], Image.Image] | None:
        file = f"{ROOT}/{name}"
        return image_of_hub(DATASET, file, REVISION, "jailbreakv") if file in held else None

    return _source(path, images, DATASET, REVISION)


def _source(path: Path, images: Images, dataset: str, revision: str) -> Source:
    examples, absent = [], []
    for line, row in numbered_rows(path, COLUMNS):
        load = images(row["image_path"])
        if load is None:
            absent.append(row["image_path"])
        else:
            examples.append(_example(row, f"{path}, line {line}", load))
    if absent and not examples:
        raise DataError(
            f"{path}: none of its {len(absent)} images is there, the first is {absent[0]}. "
            + how_to_provide("jailbreakv")
        )
    left_out = [
        f"{len(absent)} items are left out: their images are not there, the first is {name}"
        for name in absent
    ]
    return Source(examples, dataset, revision, notes=tuple(left_out[:1]))


def _example(row: Mapping[str, str], where: str, image: Callable[[], Image.Image]) -> Example:
    attack = ATTACKS.get(row["transfer_from_llm"].strip().lower())
    if attack is None:
        raise DataError(
            f"{where}: transfer_from_llm must be True or False, found {row['transfer_from_llm']!r:.200}"
        )
    query = row["jailbreak_query"]
    return Example(
        id=f"jailbreakv/{row['id'].strip()}",
        question=f"jailbreakv/{text_sha256(row['redteam_query'])[:12]}",  # one query under several attacks
        prompt=query,
        request=query,
        scenario=row["policy"],
        groups={"format": row["format"], "policy": row["policy"], "from": row["from"], "attack": attack},
        image=image,
    )
