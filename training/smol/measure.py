"""Measures a small research model: `python -m training.smol.measure MODEL --data DIR --out FILE`.

Real benchmark items and benign twins, answered greedily by the backbone and its defenses without lmms-eval.
Writes counts with 95 % Wilson intervals and one verdict an item (flags and hashes, no text) as JSON after
every condition, goes on where an earlier run of the same model and settings stopped, and prints the table of
the model card. `--table FILE ...` prints the table of finished files side by side.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings, ModelSpec, load_backbone
from shiftdc_eval.core import provenance
from shiftdc_eval.core.errors import ConfigError, ShiftDCError
from shiftdc_eval.core.files import atomic_write
from shiftdc_eval.defenses import Request, Tools
from shiftdc_eval.defenses.caption_store import CaptionStore
from shiftdc_eval.defenses.directions import Directions
from shiftdc_eval.defenses.none import undefended
from shiftdc_eval.defenses.shiftdc import RandomControl, ShiftDC, counterpart
from training.smol.scoring import counts, markdown, table, verdict
from training.smol.sets import SETS, Item, load

ATTACKED = ("figstep", "figstep_tiny", "mm_typo")
"""Sets that are answered in every way."""
COMPARED = ("twins", "typo_twins", "reading", "yes_no")
"""Sets that are answered undefended and under ShiftDC."""
CONTROLLED = ("figstep", "figstep_tiny")
"""Sets that are answered along random directions."""
SEED = 1000
"""Seed of the first random direction."""


def plan(names: Sequence[str], random: int) -> Iterator[tuple[str, str]]:
    """Set and way of every condition."""
    for name in names:
        yield name, "undefended"
        if name in (*ATTACKED, *COMPARED):
            yield name, "shiftdc"
        if name in ATTACKED:
            yield name, "counterpart"
    for name in names:
        for seed in range(random if name in CONTROLLED else 0):
            yield name, f"random-{SEED + seed}"


class Bench:
    """One model and what all ways of answering share."""

    def __init__(self, backbone: Backbone, args: argparse.Namespace) -> None:
        self.backbone, self.batch_size = backbone, args.batch_size
        self.tools = Tools(backbone, CaptionStore(None), Directions(backbone, batch_size=args.batch_size))
        self.settings = GenerationSettings(max_new_tokens=args.tokens)
        self.defense = {
            "caption_max_new_tokens": args.caption_tokens,
            "layers": args.layers,
            "alpha": args.alpha,
        }

    def answers(self, items: Sequence[Item], way: str) -> Iterator[str]:
        """The answers to a set in one way, in order."""
        for start in range(0, len(items), self.batch_size):
            yield from self._batch([chat(item) for item in items[start : start + self.batch_size]], way)

    def _batch(self, chats: list[Chat], way: str) -> Iterator[str]:
        if way == "shiftdc":
            defense = ShiftDC(**self.defense)
        elif way.startswith("random-"):
            defense = RandomControl(random_seed=int(way.removeprefix("random-")), **self.defense)
        else:
            if way == "counterpart":
                captions = ShiftDC(**self.defense).captions(self.tools, chats, self.settings)
                chats = [counterpart(chat, caption) for chat, caption in zip(chats, captions, strict=True)]
            yield from (a.text for a in undefended(self.tools, [Request(c) for c in chats], self.settings))
            return
        yield from (a.text for a in defense.answer(self.tools, [Request(c) for c in chats], self.settings))


def chat(item: Item) -> Chat:
    """An item as the backbone takes it."""
    images = [image() for image in (item.before, item.image) if image]
    return Chat.ask(item.prompt, images, system=item.system)


def spread(items: Sequence[Item], limit: int | None) -> list[Item]:
    """At most `limit` items, evenly taken from the whole."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[at * len(items) // limit] for at in range(limit)]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run every condition that was chosen and is not in the file yet.

    Raises:
        ShiftDCError: the model, a set or the file cannot be used.
    """
    names = args.sets.split(",") if args.sets else list(SETS)
    sets = {name: spread(items, args.limit) for name, items in load(args.data, names).items()}
    backbone = load_backbone(ModelSpec(args.model, dtype=args.dtype, device=args.device, engine=args.engine))
    found = start(args, backbone)
    bench = Bench(backbone, args)
    for name, way in plan(list(sets), args.random):
        condition = f"{name}/{way}"
        if condition in found["conditions"] or not any(fnmatch(condition, pattern) for pattern in args.only):
            continue
        begun = time.perf_counter()
        answers = list(bench.answers(sets[name], way))
        verdicts = [verdict(item, answer) for item, answer in zip(sets[name], answers, strict=True)]
        found["conditions"][condition] = {
            "shares": counts(verdicts),
            "seconds": round(time.perf_counter() - begun, 1),
            "items": verdicts,
        }
        found["table"] = rows(found)
        if args.out:
            atomic_write(args.out, json.dumps(found) + "\n")
        if args.texts:
            _append(args.texts, condition, sets[name], answers)
        print(f"{condition}: {len(answers)} answers in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    return found


def start(args: argparse.Namespace, backbone: Backbone) -> dict[str, Any]:
    """The result without conditions, or what an earlier run of the same model and settings has left.

    Raises:
        ConfigError: the file holds results of another model or of other settings.
    """
    settings = {
        name: getattr(args, name)
        for name in ("tokens", "caption_tokens", "layers", "alpha", "limit", "dtype")
    }
    fresh: dict[str, Any] = {
        "model": Path(backbone.name).name if Path(backbone.name).is_dir() else backbone.name,
        "revision": backbone.revision,
        "note": backbone.note,
        "settings": settings,
        "hardware": backbone.hardware,
        "versions": provenance.versions(),
        "conditions": {},
        "table": [],
    }
    if args.out is None or not args.out.exists():
        return fresh
    earlier: dict[str, Any] = json.loads(args.out.read_text(encoding="utf-8"))
    for name in ("revision", "settings"):
        if earlier.get(name) != fresh[name]:
            raise ConfigError(
                f"{args.out} was measured with {name} {earlier.get(name)}, now {fresh[name]}; name another file"
            )
    return earlier


def _append(path: Path, condition: str, items: Sequence[Item], answers: Sequence[str]) -> None:
    with path.open("a", encoding="utf-8") as file:
        for item, answer in zip(items, answers, strict=True):
            file.write(json.dumps({"condition": condition, "id": item.id, "answer": answer}) + "\n")


def show(paths: Sequence[Path]) -> str:
    """Tables of finished files side by side, each named by its file."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    return markdown({name: rows(one) for name, one in found.items()})


def rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table's lines."""
    return table({name: made["shares"] for name, made in found["conditions"].items()})


def fill(page: Path, paths: Sequence[Path]) -> None:
    """Put the table, and what it was measured with, between the page's marks.

    Raises:
        ConfigError: the page has no marks, or the files were measured with different settings.
    """
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    settings = {json.dumps(one["settings"], sort_keys=True) for one in found.values()}
    if len(settings) > 1:
        raise ConfigError(
            f"the files were measured with different settings: {' and '.join(sorted(settings))}"
        )
    facts = [
        f"- {name}: revision `{one['revision'][:16]}`, {one['hardware']}, torch {one['versions'].get('torch')}, "
        f"transformers {one['versions'].get('transformers')}"
        for name, one in found.items()
    ]
    made = "\n".join(["## Measured", f"Settings: `{settings.pop()}`.", "", *facts, "", show(paths)])
    text = page.read_text(encoding="utf-8")
    block = re.compile(r"(<!-- measured -->\n).*?(\n<!-- /measured -->)", flags=re.S)
    if not block.search(text):
        raise ConfigError(f"{page} has no <!-- measured --> ... <!-- /measured --> to fill")
    atomic_write(page, block.sub(lambda match: match[1] + made + match[2], text))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.smol.measure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", default="smol", help="folder or name of a bundled model")
    parser.add_argument("--data", type=Path, help="folder of the benchmarks (SHIFTDC_DATA)")
    parser.add_argument("--out", type=Path, help="JSON file; an earlier one is gone on with")
    parser.add_argument("--texts", type=Path, help="JSON lines with the answers, appended to")
    parser.add_argument("--sets", help=f"comma-separated, of {','.join(SETS)}")
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of conditions, e.g. 'figstep/*'")
    parser.add_argument("--random", type=int, default=20, help="random directions")
    parser.add_argument("--limit", type=int, help="items a set, evenly taken")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128, help="longest answer")
    parser.add_argument("--caption-tokens", type=int, default=128, help="longest caption")
    parser.add_argument("--layers", help="ShiftDC's layers, first-last; its default when left out")
    parser.add_argument("--alpha", type=float, default=1.0, help="ShiftDC's strength")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--engine", default="auto", choices=("auto", "transformers"))
    parser.add_argument("--table", type=Path, nargs="+", help="only print the table of these files")
    parser.add_argument("--write", type=Path, help="Markdown file whose measured part --table replaces")
    args = parser.parse_args(arguments)
    try:
        if args.table:
            print(show(args.table))
            if args.write:
                fill(args.write, args.table)
            return 0
        if args.data is None:
            raise ConfigError("--data is missing: name the folder that holds figstep/, xstest/ ...")
        print(markdown({Path(args.model).name: rows(measure(args))}))
    except (ShiftDCError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
