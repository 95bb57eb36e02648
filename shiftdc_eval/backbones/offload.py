"""Moves a model to main memory for a while, so that another model can use the accelerator."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def set_aside(model: torch.nn.Module) -> Iterator[None]:
    """Keep a model's weights in main memory while the context lasts, then move each back to its device.

    Tensor by tensor, because a model that is spread over devices by accelerate's hooks refuses to be moved as
    a whole. What is in main memory already stays where it is.
    """
    places = [
        (tensor, tensor.device)
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.device.type not in ("cpu", "meta")
    ]
    try:
        for tensor, _ in places:
            tensor.data = tensor.data.to("cpu")
        free_unused()
        yield
    finally:
        for tensor, device in places:
            tensor.data = tensor.data.to(device)


def free_unused() -> None:
    """Give back accelerator memory that no tensor uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
