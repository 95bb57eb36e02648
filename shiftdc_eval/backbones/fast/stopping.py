"""Where a stop string ends an answer: transformers' own criterion, asked only about answers that hold the string."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import StopStringCriteria


def stopper(tokenizer: Any, strings: Sequence[str]) -> Callable[[list[int]], int | None]:
    """A function that says after how many tokens an answer is ended by one of the strings; None where it is not."""
    criterion = StopStringCriteria(tokenizer, list(strings))

    def stop(ids: list[int]) -> int | None:
        text = tokenizer.decode(ids)
        if not any(string in text for string in strings):
            return None
        found = (at for at in range(1, len(ids) + 1) if bool(criterion(torch.tensor([ids[:at]]), None)[0]))
        return next(found, None)

    return stop
