"""What is measured at one layer; every function takes arrays and gives estimates.

Coordinates are `x.s / ||s||^2`: 1 is the distance from the unsafe to the safe texts' mean, positive is "safe".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics.pairwise import cosine_similarity

from shiftdc_eval.analysis import probes
from shiftdc_eval.core.statistics.intervals import Bools, Estimate, numbered
from shiftdc_eval.core.statistics.weighted import Bootstrap, Floats, Ints

Found = dict[str, Any]
"""Nested names with an `Estimate` at every leaf."""

SHIFTS = (("image", "text_caption"), ("image", "blank"), ("image", "noise"))
"""Modality shifts: the paper's (Eq. 5) and CMRM's two."""
SPLITS = 20
"""Random halves that a direction's own reliability is measured on."""
SEED = 11


@dataclass(frozen=True)
class Labels:
    """What is known of the recorded items, `[n]` each."""

    harmful: Bools
    benign: Bools
    questions: Sequence[str]
    """Items that share one stay together in folds and draws."""

    @property
    def judged(self) -> Bools:
        """Harmful items and their benign twins."""
        return np.asarray(self.harmful | self.benign)


def coordinate(activations: Floats, direction: Floats) -> Floats:
    """Coordinate of `[n, hidden]` activations along a `[hidden]` direction; 0 along a zero one."""
    squared = float(direction @ direction)
    return np.asarray(activations @ direction / squared) if squared > 0 else np.zeros(len(activations))


def shifts(layer: Mapping[str, Floats], direction: Floats, labels: Labels, bootstrap: Bootstrap) -> Found:
    """Norm of each shift, its coordinate, and its signed and squared share along the direction."""
    groups = {"harmful": labels.harmful, "benign": labels.benign}
    found: Found = {}
    for minuend, subtrahend in SHIFTS:
        if minuend not in layer or subtrahend not in layer:
            continue
        moved = layer[minuend] - layer[subtrahend]
        norm = np.linalg.norm(moved, axis=1)
        along = coordinate(moved, direction)
        cosine = along * np.linalg.norm(direction) / np.maximum(norm, 1e-12)
        columns = {"norm": norm, "coordinate": along, "cosine": cosine, "squared_share": cosine**2}
        found[f"{minuend} - {subtrahend}"] = {
            group: {name: bootstrap.within(chosen).mean(values) for name, values in columns.items()}
            for group, chosen in groups.items()
            if chosen.any()
        }
    return found


def coordinates(
    layer: Mapping[str, Floats], direction: Floats, labels: Labels, bootstrap: Bootstrap
) -> Found:
    """Mean coordinate by condition and group, and its AUROC as a detector of harm."""
    judged = bootstrap.within(labels.judged)
    found: Found = {}
    for condition, activations in layer.items():
        along = coordinate(activations, direction)
        found[condition] = {
            "harmful": bootstrap.within(labels.harmful).mean(along),
            "benign": bootstrap.within(labels.benign).mean(along),
            "detects_harm": judged.auroc(-along, labels.harmful),
        }
    return found


@dataclass(frozen=True)
class SafetyProbe:
    """The safety probe of one recording: folds and targets, found once for all layers.

    Raises:
        DataError: too few questions.
    """

    labels: Labels
    fold: Ints
    shuffled: Bools
    """Labels of the control: permuted between the questions."""

    @classmethod
    def of(cls, labels: Labels) -> SafetyProbe:
        """Folds over harmful and benign questions, and the shuffled labels."""
        chosen = np.flatnonzero(labels.judged)
        questions = [labels.questions[index] for index in chosen.tolist()]
        harmful = labels.harmful[chosen]
        fold = probes.folds(questions, ["harmful" if one else "benign" for one in harmful], "safety")
        cluster = numbered(questions)
        majority = np.bincount(cluster, weights=harmful) * 2 > np.bincount(cluster)
        return cls(labels, fold, np.random.default_rng(SEED).permutation(majority)[cluster])

    def measure(self, layer: Mapping[str, Floats], fitted_on: str, bootstrap: Bootstrap) -> Found:
        """Accuracy, errors and AUROC on every condition of the probe fitted on one."""
        chosen = np.flatnonzero(self.labels.judged)
        harmful = self.labels.harmful[chosen]
        targets = np.where(np.stack([harmful, self.shuffled], axis=1), 1.0, -1.0).astype(np.float32)
        tested = {name: _rows(activations, chosen) for name, activations in layer.items()}
        scores = probes.cross_fit(tested[fitted_on], targets, self.fold, tested)
        found: Found = {
            name: self._estimates(score[:, 0], bootstrap, chosen) for name, score in scores.items()
        }
        right = (scores[fitted_on][:, 1] > 0) == self.shuffled
        control = bootstrap.within(self.labels.judged).share(_spread(right, chosen, len(self.labels.harmful)))
        return {**found, "shuffled labels": {"accuracy": control}}

    def _estimates(self, score: Floats, bootstrap: Bootstrap, chosen: Ints) -> Found:
        size = len(self.labels.harmful)
        full = _spread(score, chosen, size)
        called_harmful = full > 0
        judged = bootstrap.within(self.labels.judged)
        return {
            "accuracy": judged.share(called_harmful == self.labels.harmful),
            "harmful_called_safe": bootstrap.within(self.labels.harmful).share(~called_harmful),
            "benign_called_unsafe": bootstrap.within(self.labels.benign).share(called_harmful),
            "auroc": judged.auroc(full, self.labels.harmful),
        }


@dataclass(frozen=True)
class VisualProbe:
    """A probe for what is seen, fitted on the image condition.

    Raises:
        DataError: too few questions of a class.
    """

    name: str
    chosen: Ints
    """Items it is about."""
    classes: Ints
    """Number of the class of each of them."""
    fold: Ints

    @classmethod
    def of(cls, name: str, classes: Mapping[int, str], questions: Sequence[str]) -> VisualProbe:
        """Folds over the questions of the items (index -> class)."""
        chosen = np.array(sorted(classes), dtype=np.int64)
        labels = [classes[index] for index in chosen.tolist()]
        fold = probes.folds([questions[index] for index in chosen.tolist()], labels, name)
        return cls(name, chosen, numbered(labels), fold)

    @property
    def chance(self) -> float:
        """Accuracy of always naming the most frequent class."""
        return float(np.bincount(self.classes).max() / len(self.classes))

    def measure(self, layer: Mapping[str, Floats], bootstrap: Bootstrap, fitted_on: str = "image") -> Found:
        """Accuracy on every condition, and its change from the fitted condition, item by item."""
        right, inside = self._right(layer[fitted_on], layer)
        drawn = bootstrap.within(inside)
        return {
            name: {"accuracy": drawn.share(own), "change": drawn.change(own, right[fitted_on])}
            for name, own in right.items()
        }

    def readout(
        self, activations: Floats, plain: Floats, refused: tuple[Bools, Bools] | None, bootstrap: Bootstrap
    ) -> Found:
        """Why the probe fails on a calibrated condition, if it does.

        Args:
            activations: `[n, hidden]` of the calibrated condition.
            plain: `[n, hidden]` of the images, which the probe is fitted on.
            refused: (answer was refused, answer was judged), `[n]` each.
            bootstrap: the draws.

        Returns:
            `fitted anew`: accuracy of a probe fitted on the calibrated activations themselves: what they
            still hold, in whatever direction. `refused`, `answered`: accuracy of the old probe on items whose
            calibrated request was refused, and on the others.
        """
        (old, inside), (anew, _) = (self._right(x, {"it": activations}) for x in (plain, activations))
        found: Found = {"fitted anew": bootstrap.within(inside).share(anew["it"])}
        if refused is not None:
            said_no, judged = refused
            found["refused"] = bootstrap.within(inside & judged & said_no).share(old["it"])
            found["answered"] = bootstrap.within(inside & judged & ~said_no).share(old["it"])
        return found

    def _right(self, fitted_on: Floats, tested: Mapping[str, Floats]) -> tuple[dict[str, Floats], Bools]:
        """Condition -> `[n]`: 1 where the probe is right; and which items it is about."""
        size = len(fitted_on)
        scores = probes.cross_fit(
            _rows(fitted_on, self.chosen),
            probes.indicators(self.classes),
            self.fold,
            {name: _rows(activations, self.chosen) for name, activations in tested.items()},
        )
        right = {name: score.argmax(1) == self.classes for name, score in scores.items()}
        inside = _spread(np.ones(len(self.chosen), bool), self.chosen, size)
        return {name: _spread(one.astype(float), self.chosen, size) for name, one in right.items()}, inside


def refusals(
    layer: Mapping[str, Floats],
    direction: Floats,
    refused: Mapping[str, tuple[Bools, Bools]],
    bootstrap: Bootstrap,
) -> Found:
    """Whether the coordinate explains the answers.

    Args:
        layer: condition -> `[n, hidden]`.
        direction: `[hidden]`.
        refused: condition -> (answer was refused, answer was judged), `[n]` each.
        bootstrap: the draws.
    """
    found: Found = {}
    for condition, (said_no, judged) in refused.items():
        unsafe = -coordinate(layer[condition], direction)
        drawn = bootstrap.within(judged)
        found[condition] = {
            "rank_correlation": drawn.rank_correlation(unsafe, said_no),
            "auroc": drawn.auroc(unsafe, said_no),
        }
    return found


def directions(layer: Mapping[str, Floats], labels: Labels) -> dict[str, Floats]:
    """Mean of benign minus mean of harmful items under each condition, `[hidden]`."""
    sides = [labels.benign / labels.benign.sum(), labels.harmful / -labels.harmful.sum(dtype=float)]
    weights = np.sum(sides, axis=0, dtype=np.float32)
    return {name: weights @ (x - x[0]) for name, x in layer.items()}


def cosines(vectors: Mapping[str, Floats]) -> Floats:
    """Cosines between all pairs, `[k, k]`; 0 for a zero vector."""
    return np.asarray(cosine_similarity(np.stack(list(vectors.values())).astype(np.float64)))


def split_half(activations: Floats, labels: Labels) -> Estimate:
    """Cosine between the directions of two random halves of the questions: how well defined one is.

    The interval is the central 95 % of the splits.
    """
    cluster = numbered(labels.questions)
    generator = np.random.default_rng(SEED)
    sides = [np.flatnonzero(side) for side in (labels.benign, labels.harmful)]
    weights = []
    for _ in range(SPLITS):
        half = generator.permutation(int(cluster.max()) + 1)[cluster] % 2
        for part in (0, 1):
            row = np.zeros(len(half), dtype=np.float32)
            for sign, side in zip((1.0, -1.0), sides, strict=True):
                picked = side[half[side] == part]
                row[picked] = sign / max(1, len(picked))
            weights.append(row)
    found = np.stack(weights) @ (activations - activations.mean(0))
    first, second = found[0::2], found[1::2]
    scale = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    values = (first * second).sum(1) / np.maximum(scale, 1e-12)
    low, high = np.quantile(values, [0.025, 0.975])
    return Estimate(
        float(values.mean()), float(low), float(high), int(labels.judged.sum()), len(set(cluster))
    )


def _rows(activations: Floats, chosen: Ints) -> Floats:
    """The chosen rows; without a copy where they are all."""
    return activations if len(chosen) == len(activations) else activations[chosen]


def _spread(values: Any, chosen: Ints, size: int) -> Any:
    """Values of the chosen items at their places among all items; 0 elsewhere."""
    full = np.zeros(size, dtype=np.asarray(values).dtype)
    full[chosen] = values
    return full
