"""Trains the parts in stages; each stage leaves a file and is not done again.

`tower`: the tower reads characters, and the projector turns a token's last patch into that token's embedding.
`language`: from text alone, what to refuse; to all else the base's own answers.
`reading`, `joint`: all parts on pictures with benign requests, captions first, the aligned text going on.
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.smol.training.cuda_graph_steps import Groups, Step, Steps
from training.smol.training.losses import answer_loss, label_loss, score
from training.smol.training.network import Network
from training.smol.training.recipe import STAGES, Recipe, fitting, schedule
from training.smol.training.row_buffer import Shelf

logger = logging.getLogger(__name__)
OFTEN = 15
"""A stage that saw its rows more often than this in the mean is warned of: one tower for which a single process drew
saw 40,000 captions 42 times, and read 91 % of the held-out characters instead of 99 %."""
FIRST_TIMED, TIMED = 10, 50
"""A step's time is measured from this step on, and again over so many."""


class Trainer:
    """Runs the stages.

    Args:
        net: the model.
        shelf: the rows.
        recipe: steps, sizes of batches, rates and weights.
        seed: written down.
        out: folder of the stages' files.
        seconds: stage -> how long it may take; its schedule ends then.
        log: what the log begins with.
    """

    def __init__(
        self,
        net: Network,
        shelf: Shelf,
        recipe: Recipe,
        seed: int,
        out: Path,
        seconds: Mapping[str, float],
        log: Mapping[str, Any],
    ) -> None:
        self.net, self.shelf, self.recipe, self.out, self.seconds = net, shelf, recipe, out, seconds
        self.log: dict[str, Any] = {**log, "seed": seed, "recipe": asdict(recipe), "stages": {}}
        self.log["hardware"] = torch.cuda.get_device_name() if net.on_gpu else platform.machine()
        self.log["versions"] = versions()

    def train(self) -> None:
        """The stages whose files are missing, in their order."""
        done = finished(self.out)
        if done:
            self._load(done[-1])
        for stage in STAGES[len(done) :]:
            self._stages()[stage]()
            self._save(stage)

    def _stages(self) -> dict[str, Callable[[], None]]:
        together = {stage: partial(self.together, stage) for stage in ("reading", "joint")}
        return {"tower": self.tower, "language": self.language, **together}

    def tower(self) -> None:
        """Tower and projector alone."""

        def step(chosen: dict[str, Tensor]) -> Tensor:
            rows = self.shelf.rows("caption", chosen["caption"])
            patches = self.net.patches(rows["pixels"])
            return label_loss(self.net, rows, patches, self.net.projected(patches))

        groups = [(self.net.tower_parameters + self.net.projector_parameters, self.recipe.tower_rate)]
        self._minimise("tower", groups, {"caption": self.recipe.tower_batch}, step)

    def language(self) -> None:
        """The low-rank matrices alone."""

        def step(chosen: dict[str, Tensor]) -> Tensor:
            return answer_loss(self.net, self.shelf.rows("text", chosen["text"]), self.net.weights())

        groups = [(self.net.language_parameters, self.recipe.language_rate)]
        self._minimise("language", groups, {"text": self.recipe.text_batch}, step)

    def together(self, stage: str) -> None:
        """All parts: `reading` has captions and text, `joint` answers and pairs of pictures too."""
        recipe, net = self.recipe, self.net
        counts = {"caption": recipe.reading_captions, "text": recipe.reading_texts}
        if stage == "joint":
            counts = {
                "caption": recipe.joint_captions,
                "answer": recipe.joint_answers,
                "pair": recipe.joint_pairs,
                "text": recipe.joint_texts,
            }

        def step(chosen: dict[str, Tensor]) -> Tensor:
            weights = net.weights()
            texts = self.shelf.rows("text", chosen["text"])
            total = recipe.text_weight * answer_loss(net, texts, weights)
            for kind in [k for k in chosen if k != "text"]:
                rows = self.shelf.rows(kind, chosen[kind])
                patches = net.patches(rows["pixels"])
                seen = net.projected(patches)
                weight = 1.0 if kind == "caption" else recipe.answer_weight
                total = total + weight * answer_loss(net, rows, weights, seen)
                if kind == "caption":
                    total = total + recipe.label_weight * label_loss(net, rows, patches, seen)
            return total

        groups = [
            (net.language_parameters + net.projector_parameters, recipe.joint_rate),
            (net.tower_parameters, recipe.joint_tower_rate),
        ]
        self._minimise(stage, groups, counts, step)

    def _minimise(self, stage: str, groups: Groups, counts: Mapping[str, int], step: Step) -> None:
        started = timed = time.monotonic()
        steps = self.recipe.steps(stage)
        run = Steps(self.net, groups, counts, step)
        losses: list[list[float]] = []
        i = counted = 0
        while i < steps:
            self.shelf.receive()
            loss = run({k: self.shelf.draw(k, n) for k, n in counts.items()}, schedule(i, steps))
            i += 1
            if i == FIRST_TIMED or i % TIMED == 0:
                self.net.wait()
                now = time.monotonic()
                if i != FIRST_TIMED:
                    each = (now - timed) / (i - counted)
                    steps = self._fitted(stage, i, each, now - started)
                timed, counted = now, i
            if i % max(1, steps // 10) == 1 or i == steps:
                losses.append([i - 1, round(float(loss), 4)])
                spent = time.monotonic() - started
                logger.info("%s: step %d of %d, loss %.4f, %.1f s", stage, i, steps, losses[-1][1], spent)
        run.end()
        found = score(self.net, self.shelf.kept)
        rows = dict(self.shelf.filled)
        logger.info("%s: %s, rows %s", stage, found, rows)
        for kind, count in counts.items():
            if (often := steps * count / max(1, rows[kind])) > OFTEN:
                logger.warning(
                    "%s: each %s row was seen %.0f times; more --workers draw more", stage, kind, often
                )
        seconds = round(time.monotonic() - started, 1)
        told = {"steps": steps, "seconds": seconds, "loss": losses, "score": found, "rows": rows}
        self.log["stages"][stage] = told

    def _fitted(self, stage: str, done: int, each: float, spent: float) -> int:
        """So many steps that the stage ends in time; the first time says when it ends."""
        steps = self.recipe.steps(stage)
        if stage in self.seconds:
            steps = fitting(steps, done, each, self.seconds[stage] - spent)
        if done == TIMED:
            ends = spent + each * (steps - done)
            logger.info("%s: %.1f ms a step, %d steps end after %.0f s", stage, 1000 * each, steps, ends)
        return steps

    def _save(self, stage: str) -> None:
        """Writes a stage's file; the log comes last, so that its existence means the stage is complete."""
        state = {**self.net.difference(), **self.net.heads()}
        save_file({k: v.contiguous().half() for k, v in state.items()}, self.out / f"{stage}.safetensors")
        (self.out / f"{stage}.json").write_text(json.dumps(self.log, indent=1) + "\n", encoding="utf-8")

    def _load(self, stage: str) -> None:
        self.net.restore(load_file(self.out / f"{stage}.safetensors"))
        self.log = json.loads((self.out / f"{stage}.json").read_text(encoding="utf-8"))


def finished(out: Path) -> list[str]:
    """The stages whose files are there, without gaps."""
    missing = [i for i, stage in enumerate(STAGES) if not (out / f"{stage}.json").exists()]
    return list(STAGES[: missing[0]] if missing else STAGES)


def versions() -> dict[str, str]:
    """Versions of everything the weights depend on."""
    import PIL
    import tokenizers
    import transformers

    found = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    return found | {m.__name__: m.__version__ for m in (transformers, tokenizers, PIL)}
