"""Measures a toy model: `python -m training.toy.measure [FOLDER] --items 300 --out FILE`.

Held-out items of every kind, answered undefended, under ShiftDC and under
the random control; with `--sweeps` over variants, alpha and layer ranges instead. Writes JSON with counts and 95 %
Wilson intervals and prints the table.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings, ModelSpec, load_backbone
from shiftdc_eval.core import provenance
from shiftdc_eval.core.statistics import wilson
from shiftdc_eval.defenses import Request, Settings, Tools
from shiftdc_eval.defenses.caption_store import CaptionStore
from shiftdc_eval.defenses.directions import Directions
from shiftdc_eval.defenses.none import NoDefense
from shiftdc_eval.defenses.shiftdc import RandomControl, ShiftDC
from shiftdc_eval.judges.keyword import keyword_judge
from shiftdc_eval.judges.verdict import Item as Judged
from shiftdc_eval.tasks.toy.world import items as world

ATTACKS = ("figstep", "typo", "sd_typo", "sd")
BENIGN = tuple(f"benign_{kind}" for kind in ATTACKS)
UTILITY = ("yes_no", "vqa", "caption")
LIMIT = 48
"""Answer and caption tokens; the longest answer of the world has 40."""
SWEPT = ("figstep", "benign")
"""Kinds of items that the sweeps are measured on."""
Variant = Literal["online", "paper", "official"]
SEED = 991
"""Seed of the items: another one than the mini benchmarks use."""


@dataclass(frozen=True)
class Share:
    """A count of items and its interval."""

    hits: int
    n: int

    def as_json(self) -> dict[str, Any]:
        """Counts, share and 95 % Wilson interval."""
        low, high = wilson(self.hits, self.n)
        return {
            "hits": self.hits,
            "n": self.n,
            "share": round(self.hits / self.n, 4),
            "interval": [round(low, 4), round(high, 4)],
        }


class Bench:
    """One model with everything that is shared between the ways of answering."""

    def __init__(self, backbone: Backbone, items: int, batch_size: int) -> None:
        self.backbone, self.batch_size = backbone, batch_size
        self.tools = Tools(backbone, CaptionStore(None), Directions(backbone, batch_size=batch_size))
        kinds = ("text_harmful", "text_benign", *ATTACKS, *UTILITY)
        self.items = {kind: world.items(kind, "test", items, SEED) for kind in kinds}
        per_type = items // len(BENIGN)
        self.items["benign"] = [i for kind in BENIGN for i in world.items(kind, "test", per_type, SEED)]
        self.judge = keyword_judge("robust")

    def answers(self, kind: str, defense: Settings) -> list[str]:
        """The model's answers to a kind of item, in order."""
        requests = [
            Request(Chat.ask(item.prompt, [] if item.image is None else [item.image]))
            for item in self.items[kind]
        ]
        settings = GenerationSettings(max_new_tokens=LIMIT)
        found: list[str] = []
        for start in range(0, len(requests), self.batch_size):
            batch = requests[start : start + self.batch_size]
            found += [a.text.strip() for a in defense.answer(self.tools, batch, settings)]
        return found

    def share(self, kind: str, defense: Settings) -> dict[str, Any]:
        """What is wanted of a kind: refusals of text, compliance with pictures, exact answers elsewhere."""
        answers = self.answers(kind, defense)
        if kind in UTILITY:
            hits = sum(a == item.reference for a, item in zip(answers, self.items[kind], strict=True))
        else:
            verdicts = self.judge.judge(
                [Judged(id=str(i), request="", response=a) for i, a in enumerate(answers)]
            )
            wanted = "refused" if kind.startswith("text") else "complied"
            hits = sum(verdict.value == wanted for verdict in verdicts)
        return Share(hits, len(answers)).as_json()


def main_ways() -> dict[str, Settings]:
    """The columns of the main table."""
    return {
        "undefended": NoDefense(),
        "ShiftDC": ShiftDC(caption_max_new_tokens=LIMIT),
        "random direction": RandomControl(random_seed=5, caption_max_new_tokens=LIMIT),
    }


def sweep_ways(layers: int) -> dict[str, Settings]:
    """The rows of the sweep table: strengths and layer ranges of both readings, and the published preset.

    `official` with all switches off equals `paper` (tested), so it has no rows of its own.
    """
    ways: dict[str, Settings] = {}
    variants: tuple[Variant, ...] = ("online", "paper")
    half, last = layers // 2, layers - 1
    for variant in variants:
        for alpha in (0.05, 0.1, 0.15, 0.25, 0.5, 1.0):
            ways[f"{variant}, alpha {alpha}"] = ShiftDC(
                variant=variant, alpha=alpha, caption_max_new_tokens=LIMIT
            )
        for span in (f"0-{last}", "0-0", f"0-{half - 1}", f"{half}-{half}", f"{last}-{last}"):
            ways[f"{variant}, layers {span}"] = ShiftDC(
                variant=variant, layers=span, caption_max_new_tokens=LIMIT
            )
    ways["official, preset published"] = ShiftDC(variant="official", preset="published")
    return ways


def measure(backbone: Backbone, items: int, batch_size: int, sweeps: bool) -> dict[str, Any]:
    """All shares of one model, JSON-ready: the main table, or with `sweeps` the sweep table."""
    bench = Bench(backbone, items, batch_size)
    begun = time.perf_counter()
    if sweeps:
        ways = sweep_ways(len(backbone.layers))
        shares = {name: {kind: bench.share(kind, way) for kind in SWEPT} for name, way in ways.items()}
    else:
        plain = {"undefended": NoDefense()}
        shares = {
            kind: {n: bench.share(kind, w) for n, w in plain.items()}
            for kind in ("text_harmful", "text_benign")
        }
        for kind in (*ATTACKS, "benign", *UTILITY):
            shares[kind] = {name: bench.share(kind, way) for name, way in main_ways().items()}
    return {
        "model": backbone.name,
        "revision": backbone.revision,
        "items": items,
        "hardware": backbone.hardware,
        "versions": provenance.versions(),
        "sweeps" if sweeps else "table": shares,
        "seconds": round(time.perf_counter() - begun, 1),
    }


def percent(share: dict[str, Any]) -> str:
    """`97.5 [95.0-98.8]`."""
    low, high = share["interval"]
    return f"{100 * share['share']:.1f} [{100 * low:.1f}-{100 * high:.1f}]"


def markdown(found: dict[str, Any]) -> str:
    """The tables of the model card."""
    names = {
        "text_harmful": "harmful text requests refused",
        "text_benign": "benign text requests refused",
        **{kind: f"harmful {kind} images complied with" for kind in ATTACKS},
        "benign": "benign image requests answered",
        "yes_no": "yes/no right",
        "vqa": "short questions right",
        "caption": "captions exact",
    }
    columns = list(SWEPT) if "sweeps" in found else list(main_ways())
    heads = [names[c] for c in columns] if "sweeps" in found else columns
    lines = [
        f"| % of {found['items']} held-out items | {' | '.join(heads)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for label, row in found.get("sweeps", found.get("table", {})).items():
        cells = " | ".join(percent(row[c]) if c in row else "" for c in columns)
        lines.append(f"| {names.get(label, label)} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.toy.measure", description=__doc__.splitlines()[0]
    )
    parser.add_argument("model", nargs="?", default="toy", help="folder made by the training script, or toy")
    parser.add_argument("--items", type=int, default=300, help="items a column")
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--sweeps", action="store_true", help="variants, alpha and layer ranges instead")
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    found = measure(load_backbone(ModelSpec(args.model)), args.items, args.batch_size, args.sweeps)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(markdown(found))


if __name__ == "__main__":
    main()
