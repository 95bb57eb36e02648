"""From verdicts to the numbers in lmms-eval's table.

A row of a metric is the value that `process_results` returned for one document. An unscored verdict is None: it
is counted separately and excluded from numerator and denominator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.statistics.intervals import numbered, proportion
from shiftdc_eval.judges.verdict import Verdict

NOTHING_SCORED = "N/A"
"""What lmms-eval itself shows for a missing number."""


@dataclass(frozen=True)
class Metric:
    """One line of lmms-eval's table."""

    aggregate: Callable[[list[Any]], Any]
    """Rows of the metric -> number."""
    higher_is_better: bool
    parts: Collection[str] | None = None
    """Groups of items (`TaskInfo.parts`) that it covers; None: all."""


class InResultFile(dict[str, Any]):
    """A nested result for lmms-eval's result file that its printed table omits.

    The table omits values of length 0 and would print any other dict in one cell.
    """

    def __len__(self) -> int:
        return 0

    def __bool__(self) -> bool:
        return True


def value_of(verdict: Verdict, wanted: str | None) -> float | None:
    """1 if the verdict is `wanted`, 0 if it is another; its number where `wanted` is None; None if unscored."""
    if verdict.value is None:
        return None
    return float(verdict.value) if wanted is None else float(verdict.value == wanted)


def mean(rows: Iterable[float | None]) -> float | str:
    """Mean over the scored rows; `N/A` when there are none."""
    scored = [row for row in rows if row is not None]
    return sum(scored) / len(scored) if scored else NOTHING_SCORED


def count_unscored(rows: Iterable[float | None]) -> int:
    """How many rows are unscored."""
    return sum(row is None for row in rows)


def any_of(values: Sequence[float | None]) -> float | None:
    """1 if any value is 1, 0 if all are scored and none is, None where an unscored one could decide."""
    if any(value == 1 for value in values):
        return 1.0
    return None if None in values else 0.0


def majority(values: Sequence[float | None]) -> float | None:
    """1 or 0, whichever most of the scored values are; None where they are split evenly or none is scored."""
    scored = [value for value in values if value is not None]
    ones = sum(value == 1 for value in scored)
    return None if 2 * ones == len(scored) else float(2 * ones > len(scored))


def require_each_once(items: Sequence[str], expected: Collection[str], task: str) -> None:
    """Refuse to aggregate rows in which an item is missing, unknown or repeated.

    Raises:
        DataError: names the items.
    """
    counts = Counter(items)
    twice = [item for item, count in counts.items() if count > 1]
    missing = [item for item in expected if item not in counts]
    foreign = [item for item in counts if item not in expected]
    for problem, found in (
        ("appear twice", twice),
        ("are missing", missing),
        ("are of unknown items", foreign),
    ):
        if found:
            shown = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
            raise DataError(f"{task}: cannot aggregate, {len(found)} of the rows {problem}: {shown}")


def summary(
    rows: Sequence[float | None], *, share: bool = False, clusters: Sequence[str] = ()
) -> dict[str, Any]:
    """Mean, scored and unscored counts; with `share` (values 0 and 1) the mean's 95 % interval too.

    Args:
        clusters: question of each row, for the interval; empty: every row has its own.
    """
    scored = [row for row in rows if row is not None]
    found: dict[str, Any] = {"mean": mean(rows), "scored": len(scored), "unscored": len(rows) - len(scored)}
    if share and scored:
        names = (
            [name for row, name in zip(rows, clusters, strict=True) if row is not None] if clusters else ()
        )
        numbers = numbered(names) if clusters else np.arange(len(scored))
        estimate = proportion(np.asarray(scored) > 0.5, numbers)
        found["interval"] = [estimate.low, estimate.high]
    return found


def split_means(
    values: Mapping[str, float | None],
    groups: Mapping[str, str],
    *,
    share: bool = False,
    clusters: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """The summary of every group, sorted by its name.

    `values` is item -> value, `groups` item -> group, `clusters` item -> question; items without a group are left out.
    """
    parts: dict[str, list[str]] = {}
    for item in values:
        if item in groups:
            parts.setdefault(groups[item], []).append(item)
    return {
        name: summary(
            [values[item] for item in items],
            share=share,
            clusters=[clusters[item] for item in items] if clusters else (),
        )
        for name, items in sorted(parts.items())
    }


def mean_of_means(
    parts: Mapping[str, Mapping[str, Any]], names: Collection[str] | None = None
) -> float | str:
    """Unweighted mean of the groups' means; `N/A` when a group has nothing scored.

    With `names`, only these groups count, and those of them that are absent make it `N/A` too.
    """
    means = [parts[name]["mean"] if name in parts else NOTHING_SCORED for name in names or parts]
    numbers = [value for value in means if isinstance(value, float)]
    return sum(numbers) / len(numbers) if numbers and len(numbers) == len(means) else NOTHING_SCORED
