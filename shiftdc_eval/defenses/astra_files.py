"""The activation files of ASTRA's authors (ASTRAL-Group/ASTRA@54df103, activations/*/*.pt), and their settings.

A file holds `{sample: {key: [vector, ...]}}`: integers, and float16 vectors of one activation. A key is an index into
`hidden_states`, so key `k` is the output of decoder layer `k - 1`; the last key is an exception, the normed state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.defenses.prompts import table


def published() -> list[dict[str, Any]]:
    """The authors' runs: `model`, `key`, `setup`, `alpha`."""
    return list(table("astra.yaml")["published"])


def mean_activation(path: Path, layer: int, hidden: int, name: str) -> Tensor:
    """Mean of all vectors that a file holds for one decoder layer.

    Nothing in the file is executed (`weights_only`).

    Args:
        path: the file.
        layer: decoder layer, 0-based.
        hidden: width that the vectors must have.
        name: setting that named the file, for errors.

    Returns:
        `[hidden]`, float32.

    Raises:
        ConfigError: the file cannot be read, or is not of this form; says what was found.
    """
    where = f"{name}={path}"
    try:
        samples = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # torch's unpickler raises whatever foreign bytes lead it to
        raise ConfigError(
            f"{where} is no file of tensors that torch reads without executing code: give one of the authors' .pt files"
        ) from error
    key, keys, vectors = layer + 1, set(), []
    for sample, by_key in _mapping(samples, where).items():
        for found, listed in _mapping(by_key, f"{where}, sample {sample}").items():
            keys.add(found)
            if found == key:
                vectors += _vectors(listed, hidden, f"{where}, sample {sample}, key {found}")
    if not vectors:
        held = ", ".join(str(one) for one in sorted(keys, key=str)) or "none"
        raise ConfigError(f"{where} holds no vectors for layer={layer} (key {key}); its keys are {held}")
    return torch.stack(vectors).double().mean(0).float()


def _mapping(found: Any, where: str) -> dict[Any, Any]:
    if not isinstance(found, dict):
        raise ConfigError(
            f"{where} is a {type(found).__name__}, not a mapping; the form is {{sample: {{key: [vector, ...]}}}}"
        )
    return found


def _vectors(listed: Any, hidden: int, where: str) -> list[Tensor]:
    if not isinstance(listed, list) or not all(isinstance(one, Tensor) for one in listed):
        raise ConfigError(f"{where} is no list of tensors; the form is {{sample: {{key: [vector, ...]}}}}")
    for one in listed:
        if tuple(one.shape) != (hidden,):
            raise ConfigError(
                f"{where} has a tensor of shape {tuple(one.shape)}; this model's have ({hidden},)"
            )
        if not one.is_floating_point():
            raise ConfigError(f"{where} has a tensor of {one.dtype}; activations are floating-point numbers")
        if not torch.isfinite(one).all():
            raise ConfigError(f"{where} has a tensor with NaN or infinity")
    return listed
