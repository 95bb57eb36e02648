"""Benchmarks on the Hugging Face hub, through `datasets`, under one recorded revision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import file_sha256
from shiftdc_eval.core.images import load_image
from shiftdc_eval.tasks.data import how_to_provide

if TYPE_CHECKING:  # both take about a second to import
    import datasets

API_SECONDS = 20
"""Longest wait for the hub's answer about a revision."""


class NotLoaded(Exception):
    """Raised within `without_tables` in place of a table that could be loaded."""


_WITHOUT_TABLES: ContextVar[bool] = ContextVar("without_tables", default=False)


@contextmanager
def without_tables() -> Iterator[None]:
    """Within it no table is read: the hub is asked whether it has one, which takes no time and no `datasets`."""
    token = _WITHOUT_TABLES.set(True)
    try:
        yield
    finally:
        _WITHOUT_TABLES.reset(token)


@dataclass(frozen=True)
class Table:
    """One split: rows with texts, and their images on demand."""

    split: datasets.Dataset
    """The rows."""
    name: str
    """Where they came from, for errors."""

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every row without its images, after its place (for errors).

        Raises:
            DataError: a column is missing; names the table and the column.
        """
        for name in columns:
            if name not in self.split.column_names:
                raise DataError(f"{self.name}: column {name!r} is missing; it has {self.split.column_names}")
        for number, row in enumerate(self.split.remove_columns(self._image_columns)):
            yield f"{self.name}, row {number}", row

    def image(self, row: int, column: str = "image") -> Callable[[], Image.Image]:
        """Decodes the image of one row on demand.

        The returned function raises DataError, naming table and row, when it is missing or damaged.
        """

        def load() -> Image.Image:
            where, cell = f"{self.name}, row {row}", self._encoded[row][column]
            content = (cell.get("bytes") or cell.get("path")) if isinstance(cell, dict) else None
            if not content:
                raise DataError(f"{where}: column {column!r} holds no image, found {type(cell).__name__}")
            return load_image(content, where)

        return load

    @property
    def _image_columns(self) -> list[str]:
        import datasets

        return [name for name, kind in self.split.features.items() if isinstance(kind, datasets.Image)]

    @cached_property
    def _encoded(self) -> datasets.Dataset:
        """The split with the content of its image files: `datasets` itself would decode damaged ones too."""
        import datasets

        split = self.split
        for name in self._image_columns:
            split = split.cast_column(name, datasets.Image(decode=False))
        return split


def resolve_revision(dataset: str, benchmark: str) -> str:
    """Commit of the hub dataset's main branch; offline, the one in the local hub cache.

    Raises:
        DataError: neither the hub nor the cache has it; names the local folder to use instead.
    """
    from huggingface_hub import HfApi, constants

    cached = Path(constants.HF_HUB_CACHE) / f"datasets--{dataset.replace('/', '--')}" / "refs" / "main"
    try:
        sha = HfApi().dataset_info(dataset, timeout=API_SECONDS).sha
    except Exception as error:  # the hub client passes on any error of its HTTP library
        if cached.is_file():
            return cached.read_text(encoding="utf-8").strip()
        raise DataError(_unreachable(dataset, "main", benchmark, error)) from error
    if not sha:
        raise DataError(f"{benchmark}: the hub names no commit for {dataset}")
    return sha


def load_split(dataset: str, config: str | None, split: str, revision: str, benchmark: str) -> Table:
    """One split of a hub dataset.

    Raises:
        DataError: it cannot be loaded; names id, revision and the local folder to use instead.
    """
    part = f" ({config}, {split})" if config else ""
    if _WITHOUT_TABLES.get():
        require_dataset(dataset, revision, benchmark)
        raise NotLoaded
    import datasets

    try:
        # tests use a local folder in place of the hub; it has no revisions
        at = {} if Path(dataset).is_dir() else {"revision": revision}
        return Table(datasets.load_dataset(dataset, config, split=split, **at), f"{dataset}{part}")
    except Exception as error:  # `datasets` raises anything from OSError to its own tree
        raise DataError(_unreachable(f"{dataset}{part}", revision, benchmark, error)) from error


def file_of_hub(dataset: str, path: str, revision: str, benchmark: str) -> Path:
    """A file of a hub dataset, downloaded once.

    Raises:
        DataError: it cannot be had; names id, revision and the local folder to use instead.
    """
    if _WITHOUT_TABLES.get():
        require_dataset(dataset, revision, benchmark)
        raise NotLoaded
    return _downloaded(dataset, path, revision, benchmark)


def image_of_hub(dataset: str, path: str, revision: str, benchmark: str) -> Callable[[], Image.Image]:
    """Loads an image file of a hub dataset on demand; it is downloaded once.

    The returned function raises DataError, naming dataset and file, when it cannot be had or is damaged.
    """
    return lambda: load_image(_downloaded(dataset, path, revision, benchmark), f"{dataset}, {path}")


def files_of_hub(dataset: str, revision: str, benchmark: str) -> frozenset[str]:
    """Paths of the files that a hub dataset holds.

    Raises:
        DataError: the hub cannot be asked; names id, revision and the local folder to use instead.
    """
    from huggingface_hub import HfApi

    root = Path(dataset)
    if root.is_dir():  # as in load_split
        return frozenset(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    try:
        return frozenset(HfApi().list_repo_files(dataset, repo_type="dataset", revision=revision))
    except Exception as error:  # see resolve_revision
        raise DataError(_unreachable(f"{dataset}, list of files", revision, benchmark, error)) from error


def _downloaded(dataset: str, path: str, revision: str, benchmark: str) -> Path:
    from huggingface_hub import hf_hub_download

    if Path(dataset).is_dir():  # as in load_split
        return Path(dataset) / path
    try:
        return Path(hf_hub_download(dataset, path, repo_type="dataset", revision=revision))
    except Exception as error:  # see resolve_revision
        raise DataError(_unreachable(f"{dataset}, {path}", revision, benchmark, error)) from error


def load_parquet(files: Sequence[Path], name: str) -> Table:
    """Parquet files of a downloaded hub dataset, as one split.

    Raises:
        DataError: a file cannot be read.
    """
    if _WITHOUT_TABLES.get():
        raise NotLoaded
    import datasets

    try:
        split = datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    except Exception as error:  # see load_split
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"{name}: not readable as parquet: {type(error).__name__}: {reason}") from error
    return Table(split, name)


def local_copy(folder: Path) -> tuple[Table, str] | None:
    """The test split of a downloaded hub repository and its revision; None where there is none.

    Raises:
        DataError: a file cannot be read.
    """
    shards = sorted((folder / "data").glob("test-*.parquet"))
    if not shards:
        return None
    table = load_parquet(shards, f"{folder / 'data'}/test-*.parquet")
    return table, "sha256:" + "+".join(file_sha256(shard)[:8] for shard in shards)


def require_dataset(dataset: str, revision: str, benchmark: str) -> None:
    """Refuse a dataset that neither a local cache nor the hub has.

    Raises:
        DataError: names id, revision and the local folder to use instead.
    """
    from huggingface_hub import HfApi, constants

    caches = (
        Path(constants.HF_HUB_CACHE) / f"datasets--{dataset.replace('/', '--')}" / "snapshots" / revision,
        Path(constants.HF_HOME) / "datasets" / dataset.replace("/", "___"),
        Path(dataset),
    )
    if any(path.is_dir() for path in caches):
        return
    try:
        HfApi().dataset_info(dataset, revision=revision, timeout=API_SECONDS)
    except Exception as error:  # see resolve_revision
        raise DataError(_unreachable(dataset, revision, benchmark, error)) from error


def _unreachable(dataset: str, revision: str, benchmark: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return (
        f"{benchmark}: the hub dataset {dataset} at revision {revision} cannot be loaded: "
        f"{type(error).__name__}: {reason}. " + how_to_provide(benchmark)
    )
