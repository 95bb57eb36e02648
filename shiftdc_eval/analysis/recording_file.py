"""Recorded activations on disk: safetensors shards in 16 bit, written as they come, read layer by layer.

A folder holds `manifest.json` (what was recorded, written first), `shard-NNNNN.safetensors` (one tensor
`[items, layers, hidden]` a condition and, where float16's range is too small, powers of two to multiply its
layers with) and `shard-NNNNN.jsonl` (captions and answers of the same items). A shard is renamed into place
when it is whole, so a killed recording goes on at the first one that is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from shiftdc_eval.core.errors import ConfigError, RecordError
from shiftdc_eval.core.files import atomic_write
from shiftdc_eval.core.records import Record
from shiftdc_eval.core.statistics.weighted import Floats

FORMAT = "shiftdc-recording-1"
LARGEST = 32768.0
"""Values above this are scaled by a power of two; float16 ends at 65504."""


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

    format: str = FORMAT
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
    """Compute dtype of the model; the shards are float16."""
    attention: str = ""
    """Attention kernel; empty in recordings that did not say."""
    inputs_sha256: str = ""
    """Hash of all prompts and pixels; empty in recordings that did not say."""
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
        unsaid = {name for name in ("attention", "inputs_sha256") if not getattr(self, name)}
        return hashlib.sha256(self.model_dump_json(exclude=unsaid).encode()).hexdigest()

    @property
    def shards(self) -> list[range]:
        """Item indices of every shard."""
        step = self.shard_items
        return [range(at, min(at + step, len(self.items))) for at in range(0, len(self.items), step)]


def create(folder: Path, manifest: Manifest) -> None:
    """Begin a recording, or make sure that the folder holds the same one.

    Raises:
        ConfigError: the folder holds another recording; names the first field that differs.
    """
    path = folder / "manifest.json"
    if path.is_file():
        theirs, ours = read_manifest(folder).model_dump(), manifest.model_dump()
        differing = [name for name in ours if ours[name] != theirs[name]]
        if differing:
            raise ConfigError(
                f"{folder} holds a recording that differs in {', '.join(differing)}; give another folder with "
                "-o, or delete this one"
            )
        return
    atomic_write(path, manifest.model_dump_json(indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a recording.

    Raises:
        RecordError: there is none, or it is damaged.
    """
    path = folder / "manifest.json"
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"{path}: no recording there ({error.strerror}); record one first") from error
    except ValueError as error:
        said = str(error).splitlines()[0]
        raise RecordError(f"{path} is damaged ({said}); delete the folder and record anew") from error


def write_shard(
    folder: Path,
    manifest: Manifest,
    index: int,
    activations: Mapping[str, Floats],
    answers: Sequence[Mapping[str, Any]],
) -> None:
    """Write one shard whole: its answers first, then the activations, whose existence means both are there."""
    lines = [json.dumps(row, sort_keys=True) for row in answers]
    atomic_write(_answers_path(folder, index), "".join(f"{line}\n" for line in lines))
    tensors: dict[str, Floats] = {}
    for name in manifest.conditions:
        tensors |= _packed(name, activations[name])
    checks = {f"crc32 {name}": str(zlib.crc32(tensor.tobytes())) for name, tensor in tensors.items()}
    ids = [manifest.items[at].id for at in manifest.shards[index]]
    metadata = {"recording": manifest.sha256, "ids": json.dumps(ids), **checks}
    path = _path(folder, index)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        file.write(save(tensors, metadata=metadata))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _packed(name: str, activations: Floats) -> dict[str, Floats]:
    largest = np.abs(activations).max(axis=(0, 2))
    if not np.isfinite(largest).all():
        layer = int(np.flatnonzero(~np.isfinite(largest))[0])
        raise RecordError(
            f"condition {name}: the activations of layer {layer} are not finite; use dtype=float32 or bfloat16"
        )
    if largest.max() <= LARGEST:
        return {name: np.ascontiguousarray(activations, dtype=np.float16)}
    scale = np.exp2(np.ceil(np.log2(np.maximum(largest, LARGEST) / LARGEST))).astype(np.float32)
    packed = np.ascontiguousarray(activations / scale[None, :, None], dtype=np.float16)
    return {name: packed, f"scale {name}": scale}


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
            raise RecordError(f"{path} belongs to another recording; {_advice()}")
        for name in file.keys():  # noqa: SIM118 (a safetensors file is no dict)
            if str(
                zlib.crc32(np.ascontiguousarray(file.get_tensor(name)).view(np.uint8).data)
            ) != metadata.get(f"crc32 {name}"):
                raise RecordError(f"{path} is damaged (tensor {name!r} does not match its sum); {_advice()}")
    return True


class Recording:
    """A complete recording, read a layer at a time.

    Args:
        folder: where it lies.

    Raises:
        RecordError: it is incomplete or a shard is damaged; names the file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        indices = range(len(self.manifest.shards))
        with ThreadPoolExecutor(2) as pool:  # the sums of a large recording take seconds
            written = list(pool.map(lambda index: is_written(folder, self.manifest, index), indices))
        if not all(written):
            raise RecordError(
                f"{_path(folder, written.index(False))} is missing: the recording is not complete; run the command "
                "again without --recorded"
            )

    def layer(self, layer: int) -> dict[str, Floats]:
        """Condition -> `[items, hidden]`, float32."""
        shape = len(self.manifest.items), self.manifest.hidden
        found = {name: np.empty(shape, dtype=np.float32) for name in self.manifest.conditions}
        for index, items in enumerate(self.manifest.shards):
            with _opened(_path(self.folder, index)) as file:
                scaled = set(file.keys())
                for name, rows in found.items():
                    values = file.get_slice(name)[:, layer].astype(np.float32)
                    if f"scale {name}" in scaled:
                        values *= file.get_tensor(f"scale {name}")[layer]
                    rows[items.start : items.stop] = values
        return found

    def answers(self) -> list[dict[str, Any]]:
        """Captions and answers of every item, in order.

        Raises:
            RecordError: a file is missing or damaged.
        """
        rows: list[dict[str, Any]] = []
        for index, items in enumerate(self.manifest.shards):
            path = _answers_path(self.folder, index)
            try:
                found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            except (OSError, ValueError) as error:
                raise RecordError(f"{path} is damaged ({error}); {_advice()}") from error
            if [row.get("id") for row in found] != [self.manifest.items[at].id for at in items]:
                raise RecordError(f"{path} does not hold the items of its shard; {_advice()}")
            rows += found
        return rows


def read_vectors(path: Path) -> tuple[Floats, str]:
    """The vectors of a safety direction, `[layers, hidden]`, and the hash it was saved under, without torch.

    Raises:
        RecordError: no such file, or damaged.
    """
    with _opened(path) as file:
        try:
            vectors = np.asarray(file.get_tensor("vectors"), dtype=np.float32)
            return vectors, (file.metadata() or {}).get("sha256", "")
        except SafetensorError as error:
            raise RecordError(f"{path} holds no safety direction ({error}); {_advice()}") from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise RecordError(f"{path} is damaged ({error}); {_advice()}") from error


def _advice() -> str:
    return "delete that file and record again: what is there is kept"


def _path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.safetensors"


def _answers_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.jsonl"
