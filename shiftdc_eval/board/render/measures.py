"""Measures as the page shows them: lower is better."""

from __future__ import annotations

from shiftdc_eval.board.detection import TEMPLATE
from shiftdc_eval.board.index import Group, Measure, Metric
from shiftdc_eval.board.render.format import METRIC_NAMES, percent, show, show_difference, show_official
from shiftdc_eval.board.render.tables import Value
from shiftdc_eval.core.records import Rate

NAMES = METRIC_NAMES | {
    "keyword_asr": "not refused",
    "refused": "not refused",
    "unsafe_rate": "unsafe",
    "score": "lost against none",
}
"""Titles of columns in which lower is better."""
FLIPPED: tuple[Metric, ...] = ("refused",)
"""Shares that the index holds the other way round."""
REFUSALS: tuple[Metric, ...] = ("keyword_asr", "refused", "over_refusal")


def group_value(own: Group | None, base: Group | None, metric: Metric) -> Value:
    """The value of a group; of a score what is lost against the group of `none`."""
    if own is None or (metric == "score" and base is None):
        return Value()
    if metric == "score" and base is not None:
        return Value(show_difference(base.value - own.value, metric))
    return Value(show(lower_better(own.value, metric), metric))


def heading(metric: Metric) -> str:
    """Title of a column."""
    return NAMES[metric] if metric in ("score", "harm_score") else f"{NAMES[metric]} %"


def lower_better(value: float, metric: Metric) -> float:
    """A share in the direction of the page."""
    return 1 - value if metric in FLIPPED else value


def refused_by(measure: Measure) -> str:
    """Shares refused by a detector's fixed text and by the model; a dash without a refusal judge."""
    if measure.metric not in REFUSALS or measure.value is None:
        return "–"
    template = measure.groups.get("flag", {}).get(TEMPLATE)
    refused, part = measure.value, 0.0 if template is None else template.value
    if measure.metric == "keyword_asr":
        refused, part = 1 - refused, 1 - part
    by_detector = part * template.n / measure.n if template else 0.0
    return f"{percent(by_detector)} / {percent(refused - by_detector)}"


def value_of(measure: Measure) -> str:
    """The value as text."""
    return "–" if measure.value is None else show(lower_better(measure.value, measure.metric), measure.metric)


def interval_of(measure: Measure) -> str:
    """The ends of the interval; empty without one."""
    if measure.low is None or measure.high is None:
        return ""
    ends = sorted(lower_better(end, measure.metric) for end in (measure.low, measure.high))
    return "–".join(show(end, measure.metric) for end in ends)


def official(measure: Measure) -> list[str]:
    """The means that a benchmark's authors take, each with its name."""
    said = []
    for mean in measure.official:
        value = None if mean.value is None else lower_better(mean.value, measure.metric)
        said.append(f"{mean.name} {show_official(mean.model_copy(update={'value': value}), measure.metric)}")
    return said


def rate_value(found: Rate | None, factor: int) -> Value:
    """A rate of a detector with its interval: in percent by the factor 100."""
    if found is None or found.value is None:
        return Value()
    text = "{:.1f}" if factor == 100 else "{:.3f}"
    ends = [text.format(factor * end) for end in (found.low, found.high) if end is not None]
    return Value(text.format(factor * found.value), "–".join(ends))
