"""How the board writes values and metric names, and how it cleans text that others wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from shiftdc_eval.board.index import Index, Metric, Official, Pair

METRIC_NAMES: dict[Metric, str] = {
    "asr": "ASR",
    "keyword_asr": "keyword ASR",
    "refused": "refused",
    "harm_score": "harm score",
    "over_refusal": "over-refusal",
    "unsafe_rate": "unsafe share",
    "score": "score",
}
"""In the order of the sections."""
RATES = ("asr", "keyword_asr", "refused", "over_refusal", "unsafe_rate")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""Characters that HTML forbids: controls except tab and line feed, lone surrogates, noncharacters."""
DIRECTION = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that set the text direction; in names and notes they only serve to deceive."""


def show(value: float | None, metric: Metric) -> str:
    """A value as text: rates in percent."""
    if value is None:
        return "–"
    if metric in RATES:
        return f"{100 * value:.1f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share + 0.0:.1f}"


def interval(low: float, high: float) -> str:
    """The ends of an interval of shares, in percent; with `to` where one is negative."""
    return f"{signed(low)} to {signed(high)}" if low < 0 else f"{percent(low)}–{percent(high)}"


def signed(share: float) -> str:
    """A share in percent with a proper minus sign."""
    text = percent(share)
    return text.removeprefix("-") if not float(text) else text.replace("-", "−")


def show_official(mean: Official, metric: Metric) -> str:
    """An official mean, or a dash with the groups that are absent."""
    if not mean.absent:
        return show(mean.value, metric)
    named = ", ".join(mean.absent) if len(mean.absent) <= 3 else f"{len(mean.absent)} of {mean.of}"
    return f"– ({named} absent)"


def show_difference(value: float, metric: Metric) -> str:
    """A difference with its sign."""
    text = show(abs(value), metric)
    if not float(text):
        return text
    return f"{'+' if value > 0 else '−'}{text}"


def show_p(pair: Pair) -> str:
    """The p-value of a pair, Holm-adjusted where both entries rank."""
    p = pair.p if pair.p_holm is None else pair.p_holm
    text = p_text(p)
    return text if pair.p_holm is not None else f"{text}, unadjusted"


def p_text(p: float) -> str:
    """A p-value."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def differing(own: Mapping[str, object], siblings: Sequence[Mapping[str, object]]) -> str:
    """The settings of `own` that are not the same in all siblings, as `name=value, ...`."""
    varying = {name: {json.dumps(one.get(name)) for one in siblings} for name in own}
    values = {name: own[name] for name, found in varying.items() if len(found) > 1}
    return ", ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in values.items()
    )


def shorten(text: str, size: int) -> str:
    """A text cut to a size, with an ellipsis."""
    return text if len(text) <= size else text[: size - 1] + "…"


def clean(text: object) -> str:
    """Any value as text without the characters that HTML forbids."""
    return CONTROL.sub("\ufffd", str(text))


def readable(index: Index) -> Index:
    """The index with every text cleaned and without direction characters."""
    return Index.model_validate(_cleaned(index.model_dump()))


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return DIRECTION.sub("\ufffd", clean(value))
    if isinstance(value, dict):
        return {_cleaned(name): _cleaned(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(part) for part in value]
    return value
