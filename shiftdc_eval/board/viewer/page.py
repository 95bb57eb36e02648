"""The page of samples: the first ones as HTML, all of them as blocks of JSON that its script reads on demand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from shiftdc_eval.board.render.page import assets, template
from shiftdc_eval.board.viewer.samples import Part

PLAIN = 100
"""Samples that can be read without JavaScript."""
HTML = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})
"""What would end a block of JSON inside HTML, as JSON writes it too."""


def render(parts: Sequence[Part]) -> str:
    """The page."""
    samples = [(part, sample) for part in parts for sample in part.samples]
    text: str = template("view.html.j2").render(
        parts=parts,
        first=samples[:PLAIN],
        plain=PLAIN,
        total=len(samples),
        counts=counts(parts),
        models=sorted({part.run.model for part in parts}),
        defenses=sorted({part.defense for part in parts}, key=lambda name: (name != "none", name)),
        tasks=sorted({part.task for part in parts}),
        judges=sorted({one.judge for _, sample in samples for one in sample.verdicts}),
        blocks=[(name, json.dumps(data).translate(HTML)) for name, data in _blocks(parts)],
        **assets("view"),
    )
    return text


def counts(parts: Sequence[Part]) -> str:
    """How much is on the page, in words."""
    samples = [(part.task, sample) for part in parts for sample in part.samples]
    numbers = {
        "answer": len(samples),
        "item": len({(task, sample.item) for task, sample in samples}),
        "task": len({part.task for part in parts}),
        "model": len({part.run.model for part in parts}),
        "defense": len({part.defense for part in parts}),
    }
    said = [f"{count} {name}{'' if count == 1 else 's'}" for name, count in numbers.items()]
    return f"{said[0]} to {said[1]} of {said[2]}: {said[3]}, {said[4]}"


def _blocks(parts: Sequence[Part]) -> Iterator[tuple[str, Any]]:
    """Names and contents: what filters need of every sample, then the HTML of each part's requests and answers."""
    macros = template("view.sample.html.j2").module
    index = []
    for part in parts:
        names = sorted({verdict.judge for sample in part.samples for verdict in sample.verdicts})
        given = [{one.judge: [one.tone, one.value] for one in sample.verdicts} for sample in part.samples]
        index.append(
            {
                "task": part.task,
                "model": part.run.model,
                "defense": part.defense,
                "keys": [sample.key for sample in part.samples],
                "items": [sample.item for sample in part.samples],
                "repeats": [sample.repeat for sample in part.samples],
                "judges": {name: [one.get(name) for one in given] for name in names},
            }
        )
    yield "index", index
    asked: dict[str, int] = {}
    for number, part in enumerate(parts):
        yield (
            f"part{number}",
            [
                [
                    str(macros.head(part, sample)),
                    asked.setdefault(str(macros.asked(sample)), len(asked)),
                    str(macros.answer(part, sample)),
                ]
                for sample in part.samples
            ],
        )
    yield "asked", list(asked)
