"""MOSSBench's 300 benign items.

Source: xirui-li/MOSSBench @8d68b06 (CC BY-SA 4.0), hub AIcell/MOSSBench, arXiv 2406.17806.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import file_sha256
from shiftdc_eval.tasks.data import first_existing, image_loader, local_or_hub, read_json, text_field
from shiftdc_eval.tasks.example import Example, Source
from shiftdc_eval.tasks.hub import (
    image_cell,
    load_split,
    require_columns,
    resolve_revision,
    without_images,
)
from shiftdc_eval.tasks.mossbench import facts
from shiftdc_eval.tasks.mossbench.facts import DATASET
from shiftdc_eval.tasks.safety import SafetyTask

CONFIG, SPLIT = "oversensitivity", "train"
TYPES = {
    "type 1": "Exaggerated Risk",
    "type 2": "Negated Harm",
    "type 3": "Counterintuitive Interpretation",
}
"""Name of a kind of stimulus in the file -> in the paper."""
SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")
TEXT_ONLY_NOTE = "asked without the images: a lower bound of over-refusal to the words, not the benchmark"


class MOSSBench(SafetyTask):
    """`mossbench`, and with `images: false` `mossbench_text_only`, whose notes say that it is not the benchmark."""

    infos = facts.TASKS
    group: ClassVar[str] = "type"
    clear_subset: ClassVar[bool] = False

    def load(self) -> Source:
        """From a local folder, else from the hub.

        Raises:
            DataError: data or images missing or malformed.
        """
        with_images = bool(self.settings.get("images", True))
        source = local_or_hub(
            "mossbench", partial(_from_folder, self.info.name, with_images), partial(_from_hub, with_images)
        )
        return source if with_images else replace(source, notes=(TEXT_ONLY_NOTE,))


def _from_folder(task: str, with_images: bool, folder: Path) -> Source | None:
    path = first_existing(folder, "benign.json", "data/benign.json", "data/data.json")
    return None if path is None else _from_files(task, folder, path, with_images)


def _from_files(task: str, folder: Path, path: Path, with_images: bool) -> Source:
    images = first_existing(folder, "images", "data/images") or folder / "images"
    examples: list[Example] = []
    missing: list[str] = []
    for number, row in read_json(path, dict).items():
        where = f"{path}, item {number}"
        image = None
        if with_images:
            named = Path(text_field(row, "image", where)).name
            found = _image_file(images, named)
            if found is None:
                missing.append(named)
            else:
                image = image_loader(found)
        examples.append(_example(number, row, image, where))
    if missing:
        raise DataError(
            f"{task}: {len(missing)} of {len(examples)} images are missing in {images}, the first is "
            f"{missing[0]}. They are in images.zip of the hub dataset {DATASET}; without them there is "
            "mossbench_text_only, which is not the benchmark."
        )
    return Source(examples, "local folder", f"sha256:{file_sha256(path)}")


def _from_hub(with_images: bool) -> Source:
    revision = resolve_revision(DATASET, "mossbench")
    table = load_split(DATASET, CONFIG, SPLIT, revision, "mossbench")
    column = "decoded_image" if "decoded_image" in table.column_names else "image"
    require_columns(table, ("pid", "question", "metadata", column), DATASET)
    examples = []
    for number, row in enumerate(without_images(table)):
        image = image_cell(table, number, DATASET, column) if with_images else None
        where = f"{DATASET}, row {number}"
        examples.append(_example(text_field(row, "pid", where), row, image, where))
    return Source(examples, DATASET, revision)


def _image_file(folder: Path, name: str) -> Path | None:
    # the question file says .png throughout, the repository holds most of them as .webp
    candidates = [folder / name, *(folder / f"{Path(name).stem}{suffix}" for suffix in SUFFIXES)]
    return next((path for path in candidates if path.is_file()), None)


def _example(number: str, row: Any, image: Callable[[], Image.Image] | None, where: str) -> Example:
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
        image=image,
    )
