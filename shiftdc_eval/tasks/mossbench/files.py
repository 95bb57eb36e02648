"""MOSSBench from the authors' files or from the hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import file_sha256
from shiftdc_eval.core.images import load_image
from shiftdc_eval.tasks.data import first_existing, image_file, local_or_hub, read_json, text_field
from shiftdc_eval.tasks.example import Example, Source
from shiftdc_eval.tasks.hub import load_split, resolve_revision
from shiftdc_eval.tasks.mossbench.facts import DATASET

CONFIG, SPLIT = "oversensitivity", "train"
TYPES = {
    "type 1": "Exaggerated Risk",
    "type 2": "Negated Harm",
    "type 3": "Counterintuitive Interpretation",
}
"""Name of a kind of stimulus in the file -> in the paper."""
SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")
TEXT_ONLY_NOTE = "asked without the images: a lower bound of over-refusal to the words, not the benchmark"
REMEDY = (
    f"They are in images.zip of the hub dataset {DATASET}; without them there is mossbench_text_only, "
    "which is not the benchmark."
)


def load(task: str, settings: Mapping[str, Any]) -> Source:
    """The items from a local folder, else from the hub; without images where the settings say `images: false`.

    Raises:
        DataError: data missing or malformed.
    """
    with_images = bool(settings.get("images", True))
    source = local_or_hub("mossbench", partial(_from_folder, with_images), partial(_from_hub, with_images))
    return source if with_images else replace(source, notes=(TEXT_ONLY_NOTE,))


def _from_folder(with_images: bool, folder: Path) -> Source | None:
    path = first_existing(folder, "benign.json", "data/benign.json", "data/data.json")
    if path is None:
        return None
    images = first_existing(folder, "images", "data/images") or folder / "images"
    examples = []
    for number, row in read_json(path, dict).items():
        where = f"{path}, item {number}"
        example = _example(number, row, where)
        if with_images:
            # the question file says .png throughout, the repository holds most of them as .webp
            file, exists = image_file(images, Path(text_field(row, "image", where)).name, SUFFIXES)
            example = replace(example, image=partial(load_image, file), absent=None if exists else file)
        examples.append(example)
    return Source(examples, "local folder", f"sha256:{file_sha256(path)}", remedy=REMEDY)


def _from_hub(with_images: bool) -> Source:
    revision = resolve_revision(DATASET, "mossbench")
    table = load_split(DATASET, CONFIG, SPLIT, revision, "mossbench")
    column = "decoded_image" if "decoded_image" in table.split.column_names else "image"
    examples = []
    for number, (where, row) in enumerate(table.rows(("pid", "question", "metadata", column))):
        example = _example(text_field(row, "pid", where), row, where)
        examples.append(replace(example, image=table.image(number, column)) if with_images else example)
    return Source(examples, DATASET, revision)


def _example(number: str, row: Any, where: str) -> Example:
    question = text_field(row, "question", where)
    metadata = row.get("metadata")
    kind = metadata.get("over") if isinstance(metadata, dict) else None
    if kind not in TYPES:
        raise DataError(f"{where}: metadata.over must be one of {', '.join(TYPES)}, found {kind!r}")
    return Example(
        id=f"mossbench/{number}",
        question=f"mossbench/{number}",
        prompt=question,
        request=question,
        scenario=TYPES[kind],
        groups={"type": TYPES[kind]},
    )
