import threading

import pytest

from shiftdc_eval.plugin.prefetch import Ahead


def test_the_announced_batch_is_prepared_while_the_one_before_is_worked_on() -> None:
    begun = {word: threading.Event() for word in "abcd"}

    def prepare(batch: list[str]) -> str:
        for word in batch:
            begun[word].set()
        return "".join(batch)

    ahead = Ahead(prepare)  # type: ignore[arg-type]
    assert ahead.get(["a"], then=["b", "c"]) == "a"
    assert begun["c"].wait(5), "the next batch was not begun"
    assert not begun["d"].is_set()
    assert ahead.get(["b"], then=["c", "d"]) == "b", "another batch than the announced one was given"
    assert ahead.get(["c", "d"], then=[]) == "cd"


def test_what_goes_wrong_ahead_is_raised_when_its_batch_comes() -> None:
    def prepare(batch: list[int]) -> int:
        return 1 // batch[0]

    ahead = Ahead(prepare)  # type: ignore[arg-type]
    assert ahead.get([1], then=[0]) == 1
    with pytest.raises(ZeroDivisionError):
        ahead.get([0], then=[1])
    assert ahead.get([1], then=[]) == 1
