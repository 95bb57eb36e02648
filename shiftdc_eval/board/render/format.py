"""How the board writes values, differences, ranks and p-values, and what it calls its metrics."""

from __future__ import annotations

from shiftdc_eval.board.index import Metric, Official, Pair

METRIC_NAMES: dict[Metric, str] = {
    "asr": "ASR",
    "keyword_asr": "keyword ASR",
    "refused": "refused",
    "over_refusal": "over-refusal",
    "unsafe_rate": "unsafe share",
    "score": "score",
    "harm_score": "harm score",
}
RATES = ("asr", "keyword_asr", "refused", "over_refusal", "unsafe_rate")


def show(value: float | None, metric: Metric) -> str:
    """A value as the board writes it: rates in percent."""
    if value is None:
        return "–"
    if metric in RATES:
        return f"{100 * value:.1f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def show_official(mean: Official, metric: Metric) -> str:
    """An official mean, or a dash with what it lacks."""
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


def show_rank(rank: tuple[int, int] | None) -> str:
    """`2`, `1-3`, or a dash where the row does not rank."""
    if rank is None:
        return "–"
    return str(rank[0]) if rank[0] == rank[1] else f"{rank[0]}-{rank[1]}"


def show_p(pair: Pair) -> str:
    """The p-value of a pair, Holm-adjusted where the pair ranks."""
    p = pair.p if pair.p_holm is None else pair.p_holm
    text = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return text if pair.p_holm is not None else f"{text}, unadjusted"
