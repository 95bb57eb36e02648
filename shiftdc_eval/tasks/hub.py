"""Benchmarks on the Hugging Face hub, through `datasets`, under one recorded revision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import HfApi, constants
from PIL import Image

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import file_sha256
from shiftdc_eval.tasks.data import BROKEN_IMAGE, how_to_provide

API_SECONDS = 20
"""Longest wait for the hub's answer about a revision."""


def resolve_revision(dataset: str, benchmark: str) -> str:
    """Commit of the hub dataset's main branch; offline, the one in the local hub cache.

    Raises:
        DataError: neither the hub nor the cache knows it; says which local folder would do.
    """
    cached = Path(constants.HF_HUB_CACHE) / f"datasets--{dataset.replace('/', '--')}" / "refs" / "main"
    try:
        sha = HfApi().dataset_info(dataset, timeout=API_SECONDS).sha
    except Exception as error:  # the hub client raises whatever its HTTP library does
        if cached.is_file():
            return cached.read_text(encoding="utf-8").strip()
        raise DataError(_unreachable(dataset, "main", benchmark, error)) from error
    if not sha:
        raise DataError(f"{benchmark}: the hub names no commit for {dataset}")
    return sha


def load_split(
    dataset: str, config: str | None, split: str, revision: str, benchmark: str
) -> datasets.Dataset:
    """One split of a hub dataset.

    Raises:
        DataError: it cannot be loaded; names id, revision and the local folder that would do instead.
    """
    try:
        # tests use a local folder in place of the hub; it has no revisions
        at = {} if Path(dataset).is_dir() else {"revision": revision}
        return datasets.load_dataset(dataset, config, split=split, **at)
    except Exception as error:  # `datasets` raises anything from OSError to its own tree
        raise DataError(_unreachable(dataset, revision, benchmark, error, config, split)) from error


def load_parquet(files: Sequence[Path], where: str) -> datasets.Dataset:
    """Parquet files of a downloaded hub dataset, as one split.

    Raises:
        DataError: a file cannot be read.
    """
    try:
        return datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    except Exception as error:  # see load_split
        raise DataError(f"{where}: not readable as parquet: {type(error).__name__}: {error}") from error


def local_copy(folder: Path) -> tuple[datasets.Dataset, str, str] | None:
    """The test split of a downloaded hub repository, its name for errors, and its revision; None where it is not.

    Raises:
        DataError: a file cannot be read.
    """
    shards = sorted((folder / "data").glob("test-*.parquet"))
    if not shards:
        return None
    where = f"{folder / 'data'}/test-*.parquet"
    revision = "sha256:" + "+".join(file_sha256(shard)[:8] for shard in shards)
    return load_parquet(shards, where), where, revision


def require_columns(table: datasets.Dataset, columns: Sequence[str], where: str) -> None:
    """Refuse a table without the columns.

    Raises:
        DataError: names the table and the column.
    """
    for name in columns:
        if name not in table.column_names:
            raise DataError(f"{where}: column {name!r} is missing; it has {table.column_names}")


def image_cell(
    table: datasets.Dataset, row: int, where: str, column: str = "image"
) -> Callable[[], Image.Image]:
    """Decodes the image of one row on demand.

    The returned function raises DataError, naming table and row, when it is missing or broken.
    """

    def load() -> Image.Image:
        try:
            image: Any = table[row][column]
        except BROKEN_IMAGE as error:
            raise DataError(f"{where}, row {row}: broken image: {error}") from error
        if not isinstance(image, Image.Image):
            raise DataError(
                f"{where}, row {row}: column {column!r} holds no image, found {type(image).__name__}"
            )
        return image.convert("RGB")

    return load


def without_images(table: datasets.Dataset) -> datasets.Dataset:
    """The table without its image columns, so that reading rows decodes nothing."""
    images = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
    return table.remove_columns(images)


def _unreachable(
    dataset: str,
    revision: str,
    benchmark: str,
    error: Exception,
    config: str | None = None,
    split: str | None = None,
) -> str:
    part = f" ({config}, {split})" if config else ""
    return (
        f"{benchmark}: the hub dataset {dataset}{part} at revision {revision} cannot be loaded: "
        f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}. "
        + how_to_provide(benchmark)
    )
