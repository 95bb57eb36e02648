"""Rows on the device: filled while training goes on, drawn from at random."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from training.smol.corpus import pools
from training.smol.training.recipe import Recipe


class Shelf:
    """All rows that have come so far, by kind; drawing begins at once.

    Args:
        recipe: how many rows of each kind.
        seed: of the rows and of the draws.
        folder: with `corpus.json` and the tokenizer.
        fonts: folder of fonts.
        device: where the rows shall be.
        workers: processes that draw.
    """

    def __init__(
        self, recipe: Recipe, seed: int, folder: Path, fonts: Path, device: str, workers: int
    ) -> None:
        wanted = {
            "caption": recipe.captions,
            "answer": recipe.answers,
            "pair": recipe.pairs,
            "text": recipe.texts,
        }
        self.device, self.keep = device, recipe.kept
        self.draws = torch.Generator().manual_seed(seed + 1)
        self.filled = dict.fromkeys(wanted, 0)
        self.kept: dict[str, dict[str, Tensor]] = {}
        """Rows for the running score, not trained on."""
        self._rows: dict[str, dict[str, Tensor]] = {}
        self._capacity = {kind: n + pools.CHUNK for kind, n in wanted.items()}
        self._incoming = pools.Supply(folder, fonts, wanted, seed, workers)

    def begin(self) -> None:
        """Waits until there are rows of every kind, and takes in what is ready."""
        while not all(self.filled.values()):
            self.receive(wait=True)
        while self.receive():
            pass

    def receive(self, *, wait: bool = False) -> bool:
        """Puts the next chunk of rows on the device; the first of a kind is kept. False when none is ready."""
        found = self._incoming.take(wait=wait)
        if found is None:
            return False
        kind, rows = found
        named = {name: torch.from_numpy(array) for name, array in pools.arrays(rows).items() if len(array)}
        if kind not in self.kept:
            self.kept[kind] = {name: t[: self.keep].to(self.device) for name, t in named.items()}
            return True
        if kind not in self._rows:
            self._rows[kind] = {
                name: torch.empty((self._capacity[kind], *t.shape[1:]), dtype=t.dtype, device=self.device)
                for name, t in named.items()
            }
        start, count = self.filled[kind], len(named["ids"])
        for name, t in named.items():
            self._rows[kind][name][start : start + count].copy_(t)
        self.filled[kind] = start + count
        return True

    def draw(self, kind: str, count: int) -> Tensor:
        """Places of rows of a kind, `[count]`."""
        return torch.randint(self.filled[kind], (count,), generator=self.draws)

    def rows(self, kind: str, places: Tensor) -> dict[str, Tensor]:
        """The rows of a kind at some places."""
        return {name: t[places] for name, t in self._rows[kind].items()}

    def close(self) -> None:
        """Ends the processes that draw."""
        self._incoming.close()
