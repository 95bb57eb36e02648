"""Two-dimensional pictures of one layer: PCA and t-SNE of the four groups, as the paper's figure 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from shiftdc_eval.core.statistics.intervals import Bools
from shiftdc_eval.core.statistics.weighted import Floats, Ints

PER_GROUP = 150
"""Points of each group that are shown; t-SNE's time grows with their number."""
PERPLEXITY = 30.0
SEED = 0


def project(layer: Mapping[str, Floats], harmful: Bools, benign: Bools) -> dict[str, Any]:
    """Coordinates of harmful and benign items as captioned text, as image and as calibrated image.

    PCA is fitted on captioned texts and images, and shows calibrated images in the same plane; t-SNE, which
    cannot show new points, places all of them together.

    Returns:
        `{"pca": {"explained": [a, b], "points": {"harmful, image": [[x, y], ...], ...}}, "tsne": {...}}`.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    sides: dict[str, Ints] = {
        "harmful": np.flatnonzero(harmful)[:PER_GROUP],
        "benign": np.flatnonzero(benign)[:PER_GROUP],
    }
    shown = [name for name in ("text_caption", "image", "image_online") if name in layer]
    groups = {f"{side}, {name}": layer[name][rows] for name in shown for side, rows in sides.items()}
    fitted = np.concatenate([x for name, x in groups.items() if "image_online" not in name])
    pca = PCA(n_components=2, svd_solver="randomized", random_state=SEED).fit(fitted)
    everything = np.concatenate(list(groups.values()))
    components = min(50, *everything.shape)
    reduced = PCA(n_components=components, svd_solver="randomized", random_state=SEED).fit_transform(
        everything
    )
    perplexity = min(PERPLEXITY, (len(reduced) - 1) / 3)
    placed = TSNE(perplexity=perplexity, init="pca", random_state=SEED).fit_transform(reduced)
    ends = np.cumsum([len(x) for x in groups.values()])
    return {
        "pca": {
            "explained": [_short(share) for share in pca.explained_variance_ratio_],
            "points": {name: _points(pca.transform(x)) for name, x in groups.items()},
        },
        "tsne": {
            "perplexity": perplexity,
            "points": {
                name: _points(part) for name, part in zip(groups, np.split(placed, ends[:-1]), strict=True)
            },
        },
    }


def _points(array: Floats) -> list[list[float]]:
    return [[_short(x), _short(y)] for x, y in array.tolist()]


def _short(number: float) -> float:
    return float(f"{number:.4g}")
