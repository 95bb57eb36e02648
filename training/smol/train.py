"""Trains the small research model: `python -m training.smol.train --out FOLDER --seed 0`.

Stages, each of which leaves a file in the output folder and is skipped when its file is there: the corpus (the base
model's own topics and answers), the vision tower with the projector (reading characters and tokens), the language
model (alignment on text alone), and both together on pictures with benign requests. See `smol.corpus` for what the
data holds and leaves out, `docs/smol_training.md` for the recipe.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from shiftdc_eval.backbones.bundled.smol_base import SHA256, base_file
from shiftdc_eval.backbones.bundled.smol_config import build_tokenizer
from shiftdc_eval.backbones.bundled.smol_delta import load_delta
from shiftdc_eval.backbones.bundled.smol_merge import read_base
from shiftdc_eval.core.errors import ShiftDCError
from shiftdc_eval.core.hashing import file_sha256
from training.smol.corpus.gather import gather
from training.smol.corpus.stored import Stored
from training.smol.training.delta_file import save_delta
from training.smol.training.network import Network
from training.smol.training.recipe import STAGES, Recipe, changed, named_numbers
from training.smol.training.row_buffer import Shelf
from training.smol.training.trainer import Trainer, finished

TOKENIZER = "tokenizer.json"


def train(args: argparse.Namespace) -> None:
    """Runs the stages whose files are missing, and writes the difference to the base.

    Raises:
        ShiftDCError: a setting, or a file that is named, cannot be used.
    """
    recipe = changed(Recipe(), args.set)
    seconds = named_numbers("--seconds", args.seconds, STAGES)
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    base_path = args.base or base_file()
    corpus = out / "corpus.json"
    loaded = None if corpus.exists() and (out / TOKENIZER).exists() else _base(base_path, out)
    if loaded and not corpus.exists():
        made = gather(
            recipe,
            args.seed,
            *loaded,
            device=args.device,
            batch=args.answer_batch,
            earlier=Stored.read(args.corpus) if args.corpus else None,
            requests=read_requests(args.requests) if args.requests else (),
            words=args.words,
            data=args.data,
        )
        made.write(corpus)
    if args.only_corpus:
        return
    shelf = Shelf(recipe, args.seed, out, args.fonts, args.device, args.workers)
    try:  # rows are drawn while the base loads
        net = Network(*(loaded or _base(base_path, out)), recipe, args.seed, args.device, args.compile)
        log: dict[str, Any] = {"corpus_sha256": file_sha256(corpus), "compiled": args.compile, "start": None}
        if args.start and not finished(out):
            delta = load_delta(args.start)
            net.restore(delta.state)
            log["start"] = {**delta.metadata, "sha256": delta.sha256}
        shelf.begin()
        Trainer(net, shelf, recipe, args.seed, out, seconds, log).train()
    finally:
        shelf.close()
    metadata = {
        "seed": str(args.seed),
        "base_sha256": file_sha256(base_path) if args.base else SHA256,
        "rank": str(recipe.rank),
        "training_log_sha256": hashlib.sha256((out / f"{STAGES[-1]}.json").read_bytes()).hexdigest(),
    }
    save_delta(out / "delta.safetensors", net.difference(), metadata)


def _base(path: Path, out: Path) -> tuple[Any, Any]:
    """The base and its tokenizer, which is left in the folder for the processes that draw."""
    base, tokenizer = read_base(path)
    tokenizer = build_tokenizer(tokenizer)
    if not (out / TOKENIZER).exists():
        tokenizer.save_pretrained(out)
    return base, tokenizer


def read_requests(path: Path) -> list[str]:
    """Requests of a JSON list: strings, or objects with an `instruction`."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [row["instruction"] if isinstance(row, dict) else row for row in rows]


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="python -m training.smol.train", description=str(__doc__).splitlines()[0]
    )
    add = made.add_argument
    add("--base", type=Path, help="GGUF file of the base; the one `make smol` installs by default")
    add("--out", type=Path, default=Path("smol-model"))
    add("--fonts", type=Path, default=Path("/usr/share/fonts/truetype/freefont"), help="folder of fonts")
    add("--data", type=Path, help="folder of the evaluation sets, for the overlap check")
    add("--requests", type=Path, help="JSON list of more harmful requests to refuse")
    add("--words", type=Path, help="word list for word salad, e.g. /usr/share/dict/american-english")
    add("--corpus", type=Path, help="stored corpus; the base answers only what is not in there")
    add("--only-corpus", action="store_true", help="end when the corpus is written")
    add("--start", type=Path, help="delta.safetensors of an earlier run to go on from")
    add("--seed", type=int, default=0)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--workers", type=int, default=min(15, os.cpu_count() or 1), help="processes that draw")
    add("--answer-batch", type=int, default=1024)
    add(
        "--compile",
        nargs="?",
        const="all",
        default="",
        choices=("decoder", "all"),
        help="compile the decoder's layers, or the tower's too",
    )
    add("--set", action="append", default=[], metavar="NAME=NUMBER", help="change the recipe")
    add("--seconds", action="append", default=[], metavar="STAGE=S", help="end a stage after that time")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 2 when something that is named cannot be used."""
    args = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d ms %(message)s")
    try:
        train(args)
    except (ShiftDCError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
