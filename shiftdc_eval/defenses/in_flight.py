"""Answers of a model behind a server: each request by itself on a thread, as many at once as the server is asked for.

So a request that fails costs itself alone, and each answer can be kept as soon as it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice

from shiftdc_eval.backbones import GenerationSettings
from shiftdc_eval.backbones.server.backbone import NO_ANSWER, ServerBackbone
from shiftdc_eval.core.api.endpoint import ANSWERS
from shiftdc_eval.core.api.streak import Streak
from shiftdc_eval.core.errors import ShiftDCError
from shiftdc_eval.defenses.answering import answered
from shiftdc_eval.defenses.base import Answer, Defense, Request, Tools
from shiftdc_eval.defenses.caption_store import clock

GIVE_UP = 5
"""Requests in a row without an answer after which the server is given up."""


@dataclass(frozen=True)
class Outcome:
    """The answer to one request, and what it took."""

    number: int
    """Place of the request."""
    answer: Answer
    seconds: float
    """Share of the wall time, reused captions included: of n requests in flight each takes an n-th."""
    timed: bool
    """False where a reused caption was made behind another address."""
    price: float | None
    """USD, reused captions included; None when unknown."""
    captions_made: int
    captions_reused: int


def answered_one_by_one(
    defense: Defense,
    tools: Tools,
    backbone: ServerBackbone,
    requests: Sequence[Callable[[], Request]],
    settings: GenerationSettings,
) -> Iterator[Outcome]:
    """Outcomes in the order in which they come.

    The first request goes alone, so that a wrong key or address is found by one. Where the server is given up,
    what was answered comes before the error.

    Args:
        defense: what answers.
        tools: its tools; each thread has a caption store of its own.
        backbone: the tools' backbone.
        requests: makes each request when its turn comes.
        settings: how the answers are decoded.

    Raises:
        ModelError: the server answers nothing any more.
    """
    width = max(1, min(backbone.endpoint.concurrency, len(requests) - 1))
    streak = Streak(ANSWERS, backbone.name, GIVE_UP)
    failure: BaseException | None = None

    def one(number: int, share: int) -> Outcome:
        with tools.captions.for_one_answer() as captions, backbone.ledger() as ledger:
            own = replace(tools, captions=captions)
            begun = clock(tools.backbone)
            (answer,) = answered(defense, own, [requests[number]()], settings)
            seconds = clock(tools.backbone) - begun + captions.reused_seconds
            return Outcome(
                number,
                replace(answer, notes=(*answer.notes, *ledger.notes)),
                seconds / share,
                captions.untimed == 0,
                ledger.price(backbone.price, captions.reused_tokens),
                captions.made,
                captions.reused,
            )

    def noted(outcome: Outcome) -> Outcome:
        answer = outcome.answer
        if answer.unanswered:
            streak.failed(outcome.number, answer.unanswered.removeprefix(NO_ANSWER), answer.blame)
        else:
            streak.replied = True
        return outcome

    backbone.begin()
    if requests:
        yield noted(one(0, 1))
    coming = iter(range(1, len(requests)))
    with ThreadPoolExecutor(width, thread_name_prefix="shiftdc-answer") as pool:
        waiting = {pool.submit(one, at, width) for at in islice(coming, 2 * width)}
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    if error := future.exception():
                        failure = failure or error
                        continue
                    yield future.result()
                    try:
                        noted(future.result())
                    except ShiftDCError as given_up:
                        failure = failure or given_up
                        backbone.cancel(given_up)
                if failure is None:
                    waiting |= {pool.submit(one, at, width) for at in islice(coming, len(done))}
                else:  # what is in flight may still be answered
                    waiting = {future for future in waiting if not future.cancel()}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            backbone.cancel()
            raise
    if failure is not None:
        raise failure
