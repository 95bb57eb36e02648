"""A defense's edits as a plan that workers follow, and what each request brings to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from shiftdc_eval.backbones.vllm.plan import Plan
from shiftdc_eval.backbones.vllm.remote import RemoteRows
from shiftdc_eval.core.errors import ModelError
from shiftdc_eval.steering import (
    AdaptiveShift,
    OnlineCalibration,
    Shift,
    SubspaceReplacement,
    TrustRegionShift,
)
from shiftdc_eval.steering.edits import Edit

One = TypeVar("One")


@dataclass(frozen=True)
class Wired:
    """Edits of a batch."""

    plan: Plan
    """What all rows share."""
    stored: list[str] | None = None
    """Names under which the workers have each row's own vectors already."""
    vectors: Tensor | None = None
    """Each row's own vectors, `[rows, layers, hidden]`, where the workers have to be sent them."""


def wired(edits: Mapping[int, Edit], rows: int) -> Wired:
    """The plan of edits at decoder layers.

    Args:
        edits: layer -> edit of `[rows, hidden]`.
        rows: number of rows.

    Raises:
        ModelError: an edit that is no function known here; it cannot run inside another process.
    """
    layers = tuple(sorted(edits))
    made = [edits[layer] for layer in layers]
    if not made:
        return Wired(Plan("none", ()))
    if all(isinstance(edit, OnlineCalibration) for edit in made):
        online = [edit for edit in made if isinstance(edit, OnlineCalibration)]
        along = torch.stack([edit.direction.float().cpu() for edit in online])
        alpha, one_sided, keep_norm = _shared({(e.alpha, e.one_sided, e.keep_norm) for e in online})
        plan = Plan("online", layers, along, alpha, one_sided, keep_norm=keep_norm)
        return _against([edit.text_only for edit in online], plan)
    if all(isinstance(edit, SubspaceReplacement) for edit in made):
        replaced = [edit for edit in made if isinstance(edit, SubspaceReplacement)]
        bases = torch.stack([edit.basis.float().cpu() for edit in replaced])
        alpha, gated = _shared({(edit.alpha, edit.gated) for edit in replaced})
        return _against([edit.text_only for edit in replaced], Plan("subspace", layers, bases, alpha, gated))
    if all(isinstance(edit, Shift) for edit in made):
        vectors = [edit.vector for edit in made if isinstance(edit, Shift)]
        if all(vector.ndim == 1 for vector in vectors):
            return Wired(Plan("shift", layers, torch.stack([vector.float().cpu() for vector in vectors])))
        each = [vector.float().cpu().expand(rows, -1) for vector in vectors]
        return Wired(Plan("shift", layers), vectors=torch.stack(each, dim=1))
    if all(isinstance(edit, AdaptiveShift) for edit in made):
        adaptive = [edit for edit in made if isinstance(edit, AdaptiveShift)]
        alphas = {edit.alpha for edit in adaptive}
        if len(alphas) == 1:
            directions = torch.stack([edit.direction.float().cpu() for edit in adaptive])
            targets = tuple(edit.target for edit in adaptive)
            return Wired(Plan("adaptive", layers, directions, alphas.pop(), targets=targets))
    if all(isinstance(edit, TrustRegionShift) for edit in made):
        regions = [edit for edit in made if isinstance(edit, TrustRegionShift)]
        both = torch.stack([torch.stack([e.direction, e.centre]).float().cpu() for e in regions])
        alpha, safe_side = _shared({(e.alpha, e.safe_side) for e in regions})
        return Wired(Plan("trust_region", layers, both, alpha, safe_side))
    kinds = ", ".join(sorted({type(edit).__name__ for edit in made}))
    raise ModelError(
        f"edits of the kind {kinds} cannot be made inside vLLM's workers; use engine=transformers"
    )


def _shared(given: set[One]) -> One:
    """Strength and switches, where all layers have the same."""
    if len(given) > 1:
        raise ModelError(
            "strengths that differ by layer cannot be sent to vLLM's workers; use engine=transformers"
        )
    return given.pop()


def _against(texts: Sequence[Any], plan: Plan) -> Wired:
    """A plan of edits against text-only activations, which the workers have already or are sent."""
    stored = _stored(texts, plan.layers)
    if stored is not None:
        return Wired(plan, stored=stored)
    own = [torch.as_tensor(getattr(text, "tensor", text)).float().cpu() for text in texts]
    return Wired(plan, vectors=torch.stack(own, dim=1))


def _stored(texts: Sequence[Any], layers: Sequence[int]) -> list[str] | None:
    """Names under which the workers have these rows at these layers; None where they do not."""
    first = texts[0]
    if not all(
        isinstance(text, RemoteRows)
        and text.source is first.source
        and text.rows == first.rows
        and text.source.layers[text.at] == layer
        for text, layer in zip(texts, layers, strict=True)
    ):
        return None
    return [first.source.keys[row] for row in first.rows]
