"""Activations that stay in vLLM's workers until somebody looks at them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


class _Lazy:
    """Behaves as a tensor that is fetched at first use."""

    @cached_property
    def tensor(self) -> Tensor:
        """The numbers, on the CPU."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.tensor, name)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return function(*_fetched(args), **{name: _fetched(value) for name, value in (kwargs or {}).items()})

    def __getitem__(self, at: Any) -> Any:
        return self.tensor[at]

    def __len__(self) -> int:
        return len(self.tensor)

    def __sub__(self, other: Any) -> Any:
        return self.tensor - _fetched(other)

    def __rsub__(self, other: Any) -> Any:
        return _fetched(other) - self.tensor


def _fetched(value: Any) -> Any:
    if isinstance(value, _Lazy):
        return value.tensor
    if isinstance(value, tuple | list):
        return type(value)(_fetched(part) for part in value)
    return value


class Remote(_Lazy):
    """Activations `[requests, layers, hidden]` in the workers; `remote[rows, at]` stays there too.

    Args:
        keys: under which the workers keep them, one a request.
        layers: decoder layers.
        fetch: brings them home.
        free: told the keys once nobody holds this any more.
    """

    def __init__(
        self,
        keys: Sequence[str],
        layers: Sequence[int],
        fetch: Callable[[Sequence[str], Sequence[int]], Tensor],
        free: Callable[[Sequence[str]], None],
    ) -> None:
        self.keys, self.layers = tuple(keys), tuple(layers)
        self._fetch = fetch
        weakref.finalize(self, free, self.keys)

    @cached_property
    def tensor(self) -> Tensor:
        """The numbers, on the CPU."""
        return self._fetch(self.keys, self.layers)

    @property
    def shape(self) -> torch.Size:
        """As of the tensor; the width needs a look at it."""
        return self.tensor.shape

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, tuple) and len(at) == 2 and isinstance(at[0], list) and isinstance(at[1], int):
            return RemoteRows(self, at[0], at[1])
        return self.tensor[at]


class RemoteRows(_Lazy):
    """Rows of activations at one layer, `[rows, hidden]`."""

    def __init__(self, source: Remote, rows: Sequence[int], at: int) -> None:
        self.source, self.rows, self.at = source, list(rows), at

    @cached_property
    def tensor(self) -> Tensor:
        """The numbers, on the CPU."""
        return self.source.tensor[self.rows, self.at]
