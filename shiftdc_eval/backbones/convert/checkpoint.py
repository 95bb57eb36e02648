"""Reads published checkpoints tensor by tensor and writes them under new names, with every shape checked.

Every published key is either written or listed as unused with the reason; every tensor that the model needs
is written in the shape it needs, or the conversion fails before the destination exists.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from shiftdc_eval.core.errors import ConfigError, ModelError

SHARD_BYTES = 4 * 1024**3
REPORT = "conversion.json"


@dataclass(frozen=True)
class Unused:
    """A published key that the converted model does not use."""

    reason: str


Routed = Sequence[tuple[str, Tensor]] | Unused | None
"""Where a published tensor goes: new names with values, unused with a reason, or None for an unknown key."""


@dataclass(frozen=True)
class Source:
    """One published checkpoint and the rule for its keys."""

    files: Sequence[Path]
    route: Callable[[str, Tensor], Routed]
    inside: tuple[str, ...] = ()
    """Keys that lead to the state dict in files that wrap it, e.g. `("model",)`."""


@dataclass
class Report:
    """The outcome for every published key."""

    written: dict[str, list[int]] = field(default_factory=dict)
    """Name in the converted model -> shape."""
    used: int = 0
    """Published keys that were written."""
    unused: dict[str, str] = field(default_factory=dict)
    """Published key -> why the converted model does not use it."""
    notes: list[str] = field(default_factory=list)
    """Values that the conversion added, and other facts for the user."""

    @property
    def shapes_sha256(self) -> str:
        """Checksum of the names and shapes written: equal for every conversion of the same architecture."""
        return hashlib.sha256(json.dumps(sorted(self.written.items())).encode()).hexdigest()


def checkpoint_files(folder: Path) -> list[Path]:
    """The weight files of a folder: safetensors if present, else torch files.

    Raises:
        ModelError: there are none.
    """
    for pattern in ("*.safetensors", "pytorch_model*.bin", "*.bin", "*.pth"):
        files = sorted(path for path in folder.glob(pattern) if path.name != "training_args.bin")
        if files:
            return files
    raise ModelError(f"{folder} has no weights (*.safetensors, *.bin or *.pth)")


def read_tensors(path: Path, inside: Sequence[str] = ()) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one file; torch files are read without running any code of theirs.

    Raises:
        ModelError: the file is damaged or holds anything but tensors.
    """
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 -- not a mapping
                yield name, file.get_tensor(name)
        return
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ModelError(f"cannot read {path} as plain tensors: {str(error).splitlines()[0]}") from error
    for key in inside:
        loaded = loaded.get(key, loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(loaded, Mapping):
        raise ModelError(f"{path} holds a {type(loaded).__name__}, not named tensors")
    yield from ((name, value) for name, value in loaded.items() if isinstance(value, Tensor))


def convert(
    sources: Sequence[Source], shapes: Mapping[str, Sequence[int]], destination: Path, report: Report
) -> Report:
    """Write all tensors of the sources under their new names.

    Args:
        sources: published checkpoints.
        shapes: every tensor of the converted model, name -> shape.
        destination: folder that gets the shards and their index; other files in it are left alone.
        report: filled in.

    Raises:
        ModelError: a key that no rule knows, a shape that does not fit, a tensor written twice or missing.
    """
    shards = _Shards(destination)
    for source in sources:
        for path in source.files:
            for key, tensor in read_tensors(path, source.inside):
                routed = source.route(key, tensor)
                if routed is None:
                    raise ModelError(f"{path.name} holds {key} {tuple(tensor.shape)}, which no rule knows")
                if isinstance(routed, Unused):
                    report.unused[key] = routed.reason
                    continue
                report.used += 1
                for name, value in routed:
                    _check(key, name, value, shapes, report)
                    report.written[name] = list(value.shape)
                    shards.add(name, value)
    missing = sorted(set(shapes) - set(report.written))
    if missing:
        raise ModelError(
            f"the published checkpoint lacks {len(missing)} of {len(shapes)} tensors, among them "
            + ", ".join(missing[:3])
        )
    shards.close()
    return report


def _check(key: str, name: str, value: Tensor, shapes: Mapping[str, Sequence[int]], report: Report) -> None:
    if name not in shapes:
        raise ModelError(f"{key} became {name}, which the model does not have")
    if name in report.written:
        raise ModelError(f"{key} became {name}, which another key already gave")
    if list(value.shape) != list(shapes[name]):
        raise ModelError(
            f"{key} has shape {list(value.shape)} as {name}, the configuration asks for {list(shapes[name])}"
        )


class _Shards:
    """Collects tensors and writes a safetensors file whenever a shard is full."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pending: dict[str, Tensor] = {}
        self._bytes = self._total = 0
        self._files: list[tuple[Path, list[str]]] = []

    def add(self, name: str, value: Tensor) -> None:
        self._pending[name] = value.clone(memory_format=torch.contiguous_format)
        self._bytes += value.nbytes
        self._total += value.nbytes
        if self._bytes >= SHARD_BYTES:
            self._flush()

    def _flush(self) -> None:
        path = self._folder / f"part-{len(self._files):05}.safetensors"
        save_file(self._pending, path, metadata={"format": "pt"})
        self._files.append((path, list(self._pending)))
        self._pending, self._bytes = {}, 0

    def close(self) -> None:
        """Write the last shard and give all files their final names."""
        if self._pending:
            self._flush()
        if len(self._files) == 1:
            self._files[0][0].rename(self._folder / "model.safetensors")
            return
        weight_map: dict[str, str] = {}
        for number, (path, names) in enumerate(self._files, start=1):
            final = f"model-{number:05}-of-{len(self._files):05}.safetensors"
            path.rename(self._folder / final)
            weight_map |= dict.fromkeys(names, final)
        index = {"metadata": {"total_size": self._total}, "weight_map": dict(sorted(weight_map.items()))}
        (self._folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def into_folder(destination: Path, write: Callable[[Path], Report]) -> Report:
    """Let `write` fill a temporary folder, and rename it to its destination only on success.

    Raises:
        ConfigError: the destination exists.
    """
    if destination.exists():
        raise ConfigError(f"{destination} exists; give a folder that does not")
    part = destination.with_name(f".{destination.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        report = write(part)
        (part / REPORT).write_text(
            json.dumps({**vars(report), "shapes_sha256": report.shapes_sha256}, indent=1)
        )
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    part.rename(destination)
    return report


def shapes_of(model: Any, rename: Callable[[str], str] = str) -> dict[str, list[int]]:
    """Name -> shape of every tensor of a model (may be on the meta device)."""
    return {rename(name): list(value.shape) for name, value in model.state_dict().items()}


def write_model(
    model_class: Any,
    config: Any,
    sources: Sequence[Source],
    destination: Path,
    report: Report,
    rename: Callable[[str], str] = str,
) -> None:
    """Write configuration and weights of a converted model.

    Args:
        model_class: of transformers or of `native`.
        config: its configuration.
        sources: published checkpoints.
        destination: existing folder.
        report: filled in.
        rename: name in the model -> name that is written.

    Raises:
        ModelError: as `convert`.
    """
    with torch.device("meta"):
        shapes = shapes_of(model_class(config), rename)
    convert(sources, shapes, destination, report)
    config.architectures = [model_class.__name__]
    config.save_pretrained(destination)


def source_folder(name: str, patterns: Iterable[str]) -> Path:
    """A local folder, or a hub id that is fetched.

    Raises:
        ModelError: neither.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"{name} is neither a folder nor a model that can be fetched: {first}") from error
