"""Which run answered a request, and what it says of the answers.

The adapter marks every request it answers, so that each sample row can name the run it came from. Another
lmms-eval model, in the same process or not, leaves no mark.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

RUN_MARK = "__shiftdc_run__"
"""Key of the run id in a request's metadata."""
MADE_MARK = "__shiftdc_made__"
"""Key of what is said of its answers, one entry a repeat."""


@dataclass(frozen=True)
class Made:
    """What a model says of an answer."""

    unanswered: str = ""
    """Why there is none; empty where there is one."""
    flags: tuple[str, ...] = ()
    """What a reader should know of it, e.g. `over_context`."""
    detector_score: float | None = None
    """The score that a detector or a gate decided by; None where there was none."""
    begun: str = ""
    """Words at the answer's start that the defense put there."""


def mark(requests: Iterable[Any], run_id: str, made: Iterable[Made]) -> None:
    """Note on lmms-eval's requests which run answered them, and what it says of each answer.

    A request that is answered several times stands there as often, in the order of its repeats.
    """
    said: dict[int, list[dict[str, Any]]] = {}
    for request, one in zip(requests, made, strict=True):
        answers = said.setdefault(id(request), [])
        answers.append(asdict(one))
        request.metadata = {**(request.metadata or {}), RUN_MARK: run_id, MADE_MARK: answers}


def run_of(request: Any) -> str | None:
    """Id of the run that answered a request; None for models other than ours."""
    return (request.metadata or {}).get(RUN_MARK)


def made_of(request: Any, answers: int) -> list[Made]:
    """What the model says of a request's answers, one entry an answer."""
    said = (request.metadata or {}).get(MADE_MARK, [])
    found = [Made(**{**one, "flags": tuple(one["flags"])}) for one in said]
    return [*found, *[Made()] * answers][:answers]
