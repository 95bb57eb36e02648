"""The board's statistics as pure functions of per-sample verdicts."""

from shiftdc_eval.core.statistics.agreement import kappa
from shiftdc_eval.core.statistics.bootstrap import RESAMPLES, mean_score
from shiftdc_eval.core.statistics.detection import areas
from shiftdc_eval.core.statistics.intervals import (
    CONFIDENCE,
    Bools,
    Estimate,
    Floats,
    Ints,
    Z,
    proportion,
    wilson,
)
from shiftdc_eval.core.statistics.mme import mme_score
from shiftdc_eval.core.statistics.paired import (
    MIN_FLIPS,
    Difference,
    drawn_flip_p,
    flips_for,
    paired_mme,
    paired_proportions,
    paired_scores,
    sign_flip_p,
)
from shiftdc_eval.core.statistics.ranking import detectable_difference, detectable_errors, holm

__all__ = [
    "CONFIDENCE",
    "MIN_FLIPS",
    "RESAMPLES",
    "Bools",
    "Difference",
    "Estimate",
    "Floats",
    "Ints",
    "Z",
    "areas",
    "detectable_difference",
    "detectable_errors",
    "drawn_flip_p",
    "flips_for",
    "holm",
    "kappa",
    "mean_score",
    "mme_score",
    "paired_mme",
    "paired_proportions",
    "paired_scores",
    "proportion",
    "sign_flip_p",
    "wilson",
]
