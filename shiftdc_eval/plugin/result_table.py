"""The results of one run as a table: a row for each task and judge, with 95 % interval and unscored answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from shiftdc_eval.core.errors import ShiftDCError
from shiftdc_eval.core.json_files import parse_object, read_text
from shiftdc_eval.core.results_folder import is_ours
from shiftdc_eval.core.terminal import printable, say

Row = tuple[str, str, str, str, str, str]
"""Task or judge, what is measured, which values are better, the value, its interval, answers."""
WIDTH = 72
"""Below it every column wraps: none may be cut."""
COLUMNS = ("task, judge", "measure", "better", "value", "95 %", "answers")


def print_results(results: Path, samples: Sequence[Path]) -> None:
    """Print the table of a run.

    Args:
        results: its results file.
        samples: its samples files.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    ours = [path for path in samples if is_ours(path)]
    try:
        rows = list(_of_our_tasks(ours)) if ours else []
    except ShiftDCError as error:  # what the board does not take is shown as lmms-eval has it
        say(f"no intervals: {error}", error=True)
        ours, rows = [], []
    rows += _of_others(parse_object(read_text(results), results), {path.name for path in ours})
    table = Table(box=None, padding=(0, 2, 0, 0))
    console = Console()
    for title in COLUMNS:
        justify: Literal["left", "right"] = "right" if title in ("value", "95 %") else "left"
        table.add_column(
            title,
            justify=justify,
            no_wrap=title not in ("measure", "answers") and console.width >= WIDTH,
            overflow="fold",
        )
    for row in rows:
        # as it is: brackets in it are no markup
        table.add_row(*(Text(printable(one)) for one in row))
    console.print(table)
    say(f"results: {results}")


def _of_our_tasks(samples: Sequence[Path]) -> Iterator[Row]:
    from shiftdc_eval.board.build import index_of
    from shiftdc_eval.board.index import lower_is_better
    from shiftdc_eval.board.ingest.join import join
    from shiftdc_eval.board.render.format import METRIC_NAMES, RATES, show

    for cell in index_of(join(samples), ()).cells:
        part = f"{cell.answered} of {cell.items} items" if cell.answered < cell.items else ""
        yield cell.task, "", "", "", "", part or f"{cell.answered} items"
        for measure in cell.measures:
            percent = " %" if measure.metric in RATES and measure.value is not None else ""
            ends = [show(one, measure.metric) for one in (measure.low, measure.high) if one is not None]
            reasons = "; ".join(f"{count} {reason}" for reason, count in measure.reasons.items())
            price = measure.cost and measure.cost.price
            unscored = f", {measure.unscored} unscored ({reasons})" if measure.unscored else ""
            yield (
                f"  {measure.judge.partition('@')[0]}",
                METRIC_NAMES[measure.metric],
                "lower" if lower_is_better(measure.metric) else "higher",
                f"{show(measure.value, measure.metric)}{percent}",
                "-".join(ends),
                f"{measure.n} scored{f', {price:.4f} USD' if price else ''}{unscored}",
            )


def _of_others(content: dict[str, Any], ours: set[str]) -> Iterator[Row]:
    """Metrics of tasks that are not ours, as lmms-eval gives them."""
    for task, values in content.get("results", {}).items():
        if any(name.endswith(f"_samples_{task}.jsonl") for name in ours):
            continue
        count = content.get("n-samples", {}).get(task, {}).get("effective", "")
        yield task, "", "", "", "", f"{count} items" if count else ""
        directions = content.get("higher_is_better", {}).get(task, {})
        for key, value in values.items():
            metric, _, chosen = key.partition(",")
            if not isinstance(value, int | float) or "_stderr" in metric:
                continue
            error = values.get(f"{metric}_stderr,{chosen}")
            spread = f"+- {1.96 * error:.3g}" if isinstance(error, int | float) and error else ""
            better = {True: "higher", False: "lower"}.get(directions.get(metric), "")
            yield (
                f"  {chosen if chosen != 'none' else ''}".rstrip(),
                metric,
                better,
                f"{value:.4g}",
                spread,
                "",
            )
