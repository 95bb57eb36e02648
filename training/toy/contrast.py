"""Text-only pairs of a safe and an unsafe request that differ in one word.

They stand beside the weights as `contrast.jsonl` for whoever wants to compare how the model sees the two.
All phrases and phrasings are those of the training split; both sides share one caption, which shows
something else.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from shiftdc_eval.tasks.toy.world import pictures
from shiftdc_eval.tasks.toy.world.vocabulary import (
    BENIGN_VERBS,
    HARMFUL_VERBS,
    OBJECTS,
    PHRASINGS,
    WEAPONS,
    phrase_split,
)


def pairs(n: int, seed: int = 0) -> list[dict[str, str]]:
    """`n` matched pairs with the keys id, unsafe, safe and caption; a quarter differs in the thing."""
    rng = random.Random(f"contrast/{seed}")
    found: list[dict[str, str]] = []
    while len(found) < n:
        form = rng.choice(PHRASINGS["text"]["train"])
        verb, thing = rng.choice(BENIGN_VERBS), rng.choice(OBJECTS)
        bad = (verb, rng.choice(WEAPONS)) if len(found) % 4 == 3 else (rng.choice(HARMFUL_VERBS), thing)
        if "test" in (phrase_split(verb, thing), phrase_split(*bad)):
            continue
        shown = pictures.scene(rng, "train", rng.sample(OBJECTS, rng.randint(1, 3)))
        found.append(
            {
                "id": f"toy-{len(found):04d}",
                "unsafe": form.format(verb=bad[0], object=bad[1]),
                "safe": form.format(verb=verb, object=thing),
                "caption": shown.caption,
            }
        )
    return found


def write(path: Path, n: int = 160) -> None:
    """Writes `n` pairs, one JSON object a line."""
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs(n)), encoding="utf-8")
