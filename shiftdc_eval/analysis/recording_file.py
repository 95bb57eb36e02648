"""Recorded activations on disk: safetensors shards in 16 bit, written as they come, read layer by layer.

A folder holds `manifest.json` (what was recorded, written first) and `shard-NNNNN.safetensors`: one tensor
`[items, layers, hidden]` a condition, with captions and answers of the same items in its metadata. A shard is
renamed into place when it is whole, so a killed recording goes on at the first one that is missing.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from shiftdc_eval.core.errors import ConfigError, RecordError
from shiftdc_eval.core.files import atomic_write
from shiftdc_eval.core.hashing import text_sha256
from shiftdc_eval.core.json_files import parse, read_text
from shiftdc_eval.core.records import Record
from shiftdc_eval.core.statistics.weighted import Floats

FORMAT: Literal["shiftdc-recording-2"] = "shiftdc-recording-2"
ADVICE = "delete that file and record again: what is there is kept"


class ItemRecord(Record):
    """One recorded item; no text of it is kept here."""

    id: str
    """Task and id."""
    task: str
    """lmms-eval task name."""
    role: str
    """`harmful`, `benign` or `visual`."""
    question: str
    """Items that share one are never split between folds."""
    scenario: str = ""
    """The benchmark's own category."""
    reference: str = ""
    """Reference answer, where a visual probe may need it."""
    flags: list[str] = Field(default_factory=list)
    """What a reader should know of it."""


class Manifest(Record):
    """Manifest of a recording: what its shards hold, and every setting that decides their content."""

    format: Literal["shiftdc-recording-2"] = FORMAT
    """Version of this layout."""
    model: str
    """Model id or folder as given."""
    revision: str
    """Revision of the weights."""
    model_note: str = ""
    """A caveat shown wherever the model's numbers are."""
    template_sha256: str
    """Hash of the chat template."""
    direction_sha256: str
    """Hash of the safety direction."""
    contrast_sha256: str
    """Hash of the contrast set it was fitted on."""
    dtype: str
    """Compute dtype of the model; the shards are float16, float32 where that is too small."""
    attention: str
    """Attention kernel."""
    inputs_sha256: str
    """Hash of all prompts and pixels."""
    layers: int
    """Decoder layers."""
    hidden: int
    """Hidden size."""
    calibrated_layers: str
    """Layers that the variants calibrate, `first-last`."""
    conditions: list[str]
    """Names of the tensors of every shard."""
    answered: list[str]
    """Conditions whose answers were generated."""
    max_new_tokens: int
    """Length limit of the answers."""
    caption_max_new_tokens: int
    """Length limit of the captions."""
    shard_items: int = Field(ge=1)
    """Items a shard."""
    items: list[ItemRecord]
    """All items, in the order of the shards."""
    notes: list[str] = Field(default_factory=list)
    """What was left out, and what leaks."""

    @property
    def sha256(self) -> str:
        """Identity of the recording."""
        return text_sha256(self.model_dump_json())

    @property
    def shards(self) -> list[range]:
        """Item indices of every shard."""
        step = self.shard_items
        return [range(at, min(at + step, len(self.items))) for at in range(0, len(self.items), step)]


def create(folder: Path, manifest: Manifest) -> None:
    """Begin a recording, or make sure that the folder holds the same one.

    Raises:
        ConfigError: the folder holds another recording; names the fields that differ.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        atomic_write(path, manifest.model_dump_json(indent=1) + "\n")
        return
    theirs, ours = read_manifest(folder).model_dump(), manifest.model_dump()
    if differing := [name for name in ours if ours[name] != theirs[name]]:
        raise ConfigError(
            f"{folder} holds a recording that differs in {', '.join(differing)}; give another folder with "
            "-o, or delete this one"
        )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a recording.

    Raises:
        RecordError: there is none, it is damaged or of another version.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise RecordError(f"{path}: no recording there; record one first")
    return parse(read_text(path), Manifest, f"{path} is damaged or of another version; record anew elsewhere")


def write_shard(
    folder: Path,
    manifest: Manifest,
    index: int,
    activations: Mapping[str, Floats],
    answers: Sequence[Mapping[str, Any]],
) -> None:
    """Write one shard whole.

    Raises:
        RecordError: an activation is not finite; names condition and layer.
    """
    tensors, rows = (
        {name: _packed(name, activations[name]) for name in manifest.conditions},
        json.dumps(answers),
    )
    metadata = {"recording": manifest.sha256, "rows": rows, "crc32": _crc32(tensors, rows)}
    atomic_write(_path(folder, index), save(tensors, metadata=metadata))


def _packed(name: str, activations: Floats) -> Floats:
    """In 16 bit, or in 32 where a value is beyond its range."""
    largest = np.abs(activations).max(axis=(0, 2))
    if not np.isfinite(largest).all():
        layer = int(np.flatnonzero(~np.isfinite(largest))[0])
        raise RecordError(
            f"condition {name}: the activations of layer {layer} are not finite; use dtype=float32 or bfloat16"
        )
    kind = np.float16 if largest.max() < np.finfo(np.float16).max else np.float32
    return np.ascontiguousarray(activations, dtype=kind)


def _crc32(tensors: Mapping[str, Floats], rows: str) -> str:
    found = zlib.crc32(rows.encode())
    for name in sorted(tensors):
        found = zlib.crc32(tensors[name].tobytes(), found)
    return str(found)


def is_written(folder: Path, manifest: Manifest, index: int) -> bool:
    """Whether a shard is there and whole.

    Raises:
        RecordError: it is there and damaged, or of another recording.
    """
    path = _path(folder, index)
    if not path.is_file():
        return False
    with _opened(path) as file:
        metadata = file.metadata() or {}
        if metadata.get("recording") != manifest.sha256:
            raise RecordError(f"{path} belongs to another recording; {ADVICE}")
        tensors = {name: file.get_tensor(name) for name in manifest.conditions}
        if _crc32(tensors, metadata.get("rows", "")) != metadata.get("crc32"):
            raise RecordError(f"{path} is damaged (its content does not match its check sum); {ADVICE}")
    return True


class Recording:
    """A complete recording, read a layer at a time.

    Args:
        folder: where it lies.

    Raises:
        RecordError: it is incomplete or a shard is damaged; names the file.
    """

    def __init__(self, folder: Path) -> None:
        self.manifest = read_manifest(folder)
        self._paths = [_path(folder, index) for index in range(len(self.manifest.shards))]
        for index, path in enumerate(self._paths):
            if not is_written(folder, self.manifest, index):
                raise RecordError(
                    f"{path} is missing: the recording is not complete; run the command again without --recorded"
                )

    def layer(self, layer: int) -> dict[str, Floats]:
        """Condition -> `[items, hidden]`, float32."""
        shape = len(self.manifest.items), self.manifest.hidden
        found = {name: np.empty(shape, dtype=np.float32) for name in self.manifest.conditions}
        for path, items in zip(self._paths, self.manifest.shards, strict=True):
            with _opened(path) as file:
                for name, rows in found.items():
                    rows[items.start : items.stop] = file.get_slice(name)[:, layer]
        return found

    def answers(self) -> list[dict[str, Any]]:
        """Captions and answers of every item, in order."""
        rows: list[dict[str, Any]] = []
        for path in self._paths:
            with _opened(path) as file:
                rows += json.loads(file.metadata()["rows"])
        return rows


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise RecordError(f"{path} is damaged ({error}); {ADVICE}") from error


def _path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.safetensors"
