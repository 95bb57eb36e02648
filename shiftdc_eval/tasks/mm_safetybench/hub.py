"""MM-SafetyBench from the hub, or from a downloaded copy of the hub repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import file_sha256
from shiftdc_eval.tasks.data import text_field
from shiftdc_eval.tasks.example import Example, Source
from shiftdc_eval.tasks.hub import Table, load_parquet, load_split, resolve_revision
from shiftdc_eval.tasks.mm_safetybench.authors_files import example_of
from shiftdc_eval.tasks.mm_safetybench.facts import DATASET
from shiftdc_eval.tasks.mm_safetybench.scenarios import KINDS, SCENARIOS, RequestKind, Scenario

TEXT_NOTE = (
    "prompts of the hub's Text_only split: for scenarios 01-07 and 09 they are the authors' 'Changed Question' "
    "wording, not the paper's 'Question'"
)


class Tables:
    """Where the splits come from: the hub at one revision, or parquet files below a folder."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.revision = "" if folder else resolve_revision(DATASET, "mm_safetybench")
        self._hashes: list[str] = []

    def split(self, scenario: Scenario, split: str) -> Table:
        """One split."""
        if self.folder is None:
            return load_split(DATASET, scenario.config, split, self.revision, "mm_safetybench")
        path = self.folder / "data" / scenario.config / f"{split}.parquet"
        if not path.is_file():
            raise DataError(f"mm_safetybench: {path} is missing from the downloaded hub repository")
        table = load_parquet([path], str(path))
        self._hashes.append(file_sha256(path))
        return table

    def origin(self) -> tuple[str, str]:
        """Dataset and revision, as the result names them."""
        if self.folder is None:
            return DATASET, self.revision
        return f"local copy of {DATASET}", "sha256:" + "+".join(h[:8] for h in self._hashes)


def is_hub_copy(folder: Path) -> bool:
    """True for a folder in the layout of the hub repository."""
    return (folder / "data" / SCENARIOS[0].config).is_dir()


def load(folder: Path | None, kind: RequestKind) -> Source:
    """The questions of all scenarios; judges are shown the wording of the text-only split.

    Raises:
        DataError: a split cannot be loaded or is malformed.
    """
    tables = Tables(folder)
    examples: list[Example] = []
    for scenario in SCENARIOS:
        table = tables.split(scenario, kind.split)
        prompts = _questions(table, ("image",) if kind.folder else ())
        requests = _questions(tables.split(scenario, KINDS["text_only"].split)) if kind.folder else prompts
        for row, (number, prompt) in enumerate(prompts.items()):
            if number not in requests:
                raise DataError(f"{table.name}, row {row}: id {number!r} is not in the Text_only split")
            rest: dict[str, Any] = {"image": table.image(row)} if kind.folder else {}
            examples.append(example_of(scenario, kind, number, prompt, requests[number], **rest))
    dataset, revision = tables.origin()
    return Source(examples, dataset, revision, () if kind.folder else (TEXT_NOTE,))


def _questions(table: Table, columns: tuple[str, ...] = ()) -> dict[str, str]:
    found: dict[str, str] = {}
    for where, cells in table.rows(("id", "question", *columns)):
        number = str(cells["id"])
        if number in found:
            raise DataError(f"{where}: id {number!r} appears twice")
        found[number] = text_field(cells, "question", where)
    return found
