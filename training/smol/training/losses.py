"""What training minimises, and how well kept rows are read and answered."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from training.smol.corpus.drawing import CLASSES, SLOTS
from training.smol.training.network import Network

NEAR, CALM = 0.5, 0.1
"""Weights of the distance to a token's embedding, and of the size of patches where none ends."""
SCORED = 50
"""Rows that are scored at once."""

Rows = Mapping[str, Tensor]


def answer_loss(net: Network, rows: Rows, weights: list[list[Tensor]], seen: Tensor | None = None) -> Tensor:
    """Cross entropy of the answer tokens."""
    logits = net.answer_logits(rows, weights, seen)
    return functional.cross_entropy(logits.flatten(0, 1).float(), rows["targets"].flatten().long())


def label_loss(net: Network, rows: Rows, patches: Tensor, seen: Tensor) -> Tensor:
    """Cross entropy of each patch's characters and, where a token ends, of that token by its embedding.

    Args:
        net: the model.
        rows: with `characters`, `token_places` and `tokens`; see `pools.Rows`.
        patches: `[batch, 256, width]`.
        seen: the same, projected, `[batch, 256, hidden]`.
    """
    labels = rows["characters"].long()
    logits = net.character_head(patches).float().unflatten(-1, (SLOTS, CLASSES))
    losses = functional.cross_entropy(logits.flatten(0, 2), labels.flatten(), reduction="none")
    written = (labels.flatten() > 0).float()
    blank = 1.0 - written
    characters = (losses * written).sum() / written.sum() + (losses * blank).sum() / blank.sum()

    places = rows["token_places"].long()
    ends = _at(seen, places)
    targets = rows["tokens"].long().masked_fill(places < 0, -100)
    logits = functional.linear(ends.to(net.dtype) * net.temperature.exp().to(net.dtype), net.table)
    tokens = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    embeddings = functional.embedding(rows["tokens"], net.table).float()
    there = (places >= 0).unsqueeze(-1)
    near = ((ends.float() - embeddings).square() * there).mean() / net.scale
    # patches without a token's end stay near nothing, so that the language model reads no noise
    is_end = torch.zeros(seen.shape[:2], device=seen.device).scatter(1, places.clamp_min(0), 1.0)
    calm = (seen.float().square().mean(-1) * (1 - is_end)).mean() / net.scale
    total: Tensor = characters + tokens + NEAR * near + CALM * calm
    return total


def _at(seen: Tensor, places: Tensor) -> Tensor:
    """Vectors at the named patches, `[batch, N, hidden]`; any vector where there is no place."""
    return seen.gather(1, places.clamp_min(0).unsqueeze(-1).expand(-1, -1, seen.shape[-1]))


@torch.no_grad()
def score(net: Network, kept: Mapping[str, dict[str, Tensor]]) -> dict[str, float]:
    """Shares of kept rows: characters right, tokens right, and answers right in every token (teacher-forced)."""
    found: dict[str, list[float]] = {}
    with net.uncompiled(), torch.autocast(net.device.split(":")[0], torch.bfloat16, enabled=net.on_gpu):
        weights = net.weights()
        for kind, all_rows in kept.items():
            for start in range(0, len(all_rows["ids"]), SCORED):
                rows = {name: t[start : start + SCORED] for name, t in all_rows.items()}
                seen = None
                if kind != "text":
                    patches = net.patches(rows["pixels"])
                    seen = net.projected(patches)
                    labelled = "characters" in rows
                    for name, share in _read(net, rows, patches, seen).items() if labelled else ():
                        found.setdefault(name, []).append(share)
                said = net.answer_logits(rows, weights, seen).argmax(-1)
                whole = ((said == rows["targets"]) | (rows["targets"] < 0)).all(-1).float().mean()
                found.setdefault(f"{kind} exact", []).append(float(whole))
    return {name: round(sum(values) / len(values), 4) for name, values in found.items()}


def _read(net: Network, rows: Rows, patches: Tensor, seen: Tensor) -> dict[str, float]:
    written = rows["characters"] > 0
    characters = net.character_head(patches).unflatten(-1, (SLOTS, CLASSES)).argmax(-1)
    places = rows["token_places"].long()
    tokens = functional.linear(_at(seen, places).to(net.dtype), net.table).argmax(-1)
    return {
        "characters": float((characters == rows["characters"])[written].float().mean()),
        "tokens": float((tokens == rows["tokens"])[places >= 0].float().mean()),
    }
