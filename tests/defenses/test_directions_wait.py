"""The ranks of a data-parallel run: one fits a direction, the others wait for it."""

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import torch

from shiftdc_eval.defenses import directions
from shiftdc_eval.steering import SafetyDirection


def test_a_direction_that_several_ask_for_is_fitted_once() -> None:
    backbone: Any = SimpleNamespace(revision="r", template_sha256="t", dtype=torch.float32, attention="sdpa")
    contrast: Any = SimpleNamespace(sha256="c")
    fits: list[None] = []

    def fit() -> SafetyDirection:
        fits.append(None)
        time.sleep(0.2)
        return SafetyDirection(torch.ones(2, 3), "m", "r", "t", "c", 4, 4, "test")

    with ThreadPoolExecutor(3) as ranks:
        waiting = [ranks.submit(directions._kept, backbone, contrast, ["same"], fit) for _ in range(3)]
        found = [one.result() for one in waiting]
    assert len(fits) == 1
    assert all(torch.equal(one.vectors, torch.ones(2, 3)) for one in found)
