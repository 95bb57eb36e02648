"""Running a judge with a progress bar that shows the cost so far."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tqdm import tqdm

from shiftdc_eval.core.environment import foreign
from shiftdc_eval.judges.verdict import Item, Judge, Verdict, ask


def judged(judge: Judge, items: Sequence[Item]) -> list[Verdict]:
    """A judge's verdicts; the first process of a data-parallel run shows the bar.

    Raises:
        JudgeError: the judge cannot work at all.
    """
    quiet = not items or foreign("RANK") not in ("", "0")
    with tqdm(total=len(items), desc=judge.name, unit="answer", disable=quiet) as bar:

        def told(done: int, account: str) -> None:
            bar.update(done)
            bar.set_postfix_str(account, refresh=False)

        begun = time.perf_counter()
        verdicts = ask(judge, items, told) if items else []
        took = time.perf_counter() - begun
        bar.update(len(items) - bar.n)
    return timed(verdicts, took)


def timed(verdicts: list[Verdict], took: float) -> list[Verdict]:
    """Assigns an equal share of the elapsed time to verdicts that did not call a model.

    An answer that could not be judged, such as an empty one, is given no time.
    """
    by_rule = [verdict for verdict in verdicts if verdict.scored and not verdict.asked]
    share = round(took / len(by_rule), 6) if by_rule else 0.0
    return [
        verdict
        if verdict.asked
        else verdict.model_copy(
            update={
                "seconds": share if verdict.scored else 0.0,
                "tokens_in": 0,
                "tokens_out": 0,
                "price": 0.0,
            }
        )
        for verdict in verdicts
    ]
