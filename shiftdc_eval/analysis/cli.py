"""`shiftdc-eval analyse MODEL --tasks ...`: how an image shifts a model's safety coordinate, layer by layer.

Records the last prompt token's activation after every decoder layer for each request as text, as captioned text,
as image, with a blank and a noise image, and after each calibration; then analyses the recording and writes
report.json, index.html and SVG plots. A killed recording goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from shiftdc_eval.core import model_options
from shiftdc_eval.core.errors import ConfigError, said_by
from shiftdc_eval.core.validation import nearest
from shiftdc_eval.plugin.preflight import refuse

if TYPE_CHECKING:
    from shiftdc_eval.analysis.recording import Plan
    from shiftdc_eval.backbones import Backbone
    from shiftdc_eval.defenses import Tools


MINIMUM = 10
"""Items that a probe needs of each class (`probes.MINIMUM`, which takes seconds to import)."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("model", metavar="MODEL", help="hub id, folder or bundled model (toy)")
    parser.add_argument("--tasks", help="tasks with harmful items, separated by commas")
    parser.add_argument("--benign", help="tasks with their benign twins; known for the toy tasks and figstep")
    parser.add_argument("--visual", help="tasks whose reference answers say what is seen, e.g. toy_vqa")
    parser.add_argument(
        "--items", type=int, help="harmful items at most, and as many twins; all when left out"
    )
    parser.add_argument("-o", "--out", type=Path, default=Path("analysis"), help="folder to write")
    parser.add_argument("--layer", type=int, help="layer of plane pictures and findings (middle of --layers)")
    parser.add_argument("--layers", help="layers that ShiftDC calibrates, first-last (upper half)")
    parser.add_argument("--variants", default="online,paper,cmrm", help="calibrations to record")
    parser.add_argument("--contrast", type=Path, help="contrast set of the direction; the model's or ours")
    parser.add_argument("--direction", type=Path, help="safety direction file in place of a contrast set")
    parser.add_argument(
        "--compare", type=Path, action="append", default=[], help="contrast set to compare the direction with"
    )
    parser.add_argument("--judge", default="keyword_robust", help="who says which answers are refusals")
    parser.add_argument("--no-answers", action="store_true", help="record activations alone")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="length of the answers")
    parser.add_argument("--caption-max-new-tokens", type=int, default=1024, help="length of the captions")
    parser.add_argument("--batch-size", type=int, default=16, help="items run together, and items a shard")
    model_options.add_options(parser)
    parser.add_argument("--recorded", action="store_true", help="analyse what --out holds; loads no model")


def main(args: argparse.Namespace) -> int:
    """Record, analyse, write; 0 when the report was written, whatever it says."""
    recording = args.out / "recording"
    if args.recorded:
        _same_model(args.model, recording)
    else:
        _record(args, recording)
    from shiftdc_eval.analysis import page, plots
    from shiftdc_eval.analysis.report import analyse
    from shiftdc_eval.core.files import atomic_write
    from shiftdc_eval.core.json_files import canonical
    from shiftdc_eval.core.terminal import printable

    report = analyse(recording, layer=args.layer, judge=args.judge)
    atomic_write(args.out / "report.json", canonical(report))
    pictures = plots.write_all(report, args.out)
    atomic_write(args.out / "index.html", page.render(report, pictures))
    for one in report["findings"]:
        print(f"{page.HOLDS[one['holds']]:<15} {printable(one['claim'])}\n{'':<15} {printable(one['said'])}")
    print(f"page: {args.out / 'index.html'}   numbers: {args.out / 'report.json'}")
    return 0


def _same_model(model: str, recording: Path) -> None:
    from shiftdc_eval.analysis.recording_file import read_manifest

    found = read_manifest(recording).model
    if found != model:
        raise ConfigError(f"{recording} holds a recording of {found}, not of {model}")


def _record(args: argparse.Namespace, folder: Path) -> None:
    refuse(_problems(args))
    from shiftdc_eval.analysis.items import collect
    from shiftdc_eval.analysis.recording import Plan, record, tools_for
    from shiftdc_eval.analysis.sweeps.inputs import own_contrast
    from shiftdc_eval.backbones import load_backbone
    from shiftdc_eval.core.paths import cache_dir
    from shiftdc_eval.defenses.contrast import load_contrast
    from shiftdc_eval.defenses.directions import Directions

    # items and plan before the weights: what is wrong with them is then known in seconds
    contrast = load_contrast(args.contrast or own_contrast(args.model))
    items, notes = collect(
        _names(args.tasks), _names(args.benign), _names(args.visual), contrast, limit=args.items
    )
    plan = Plan(
        items,
        variants=tuple(_names(args.variants)),
        layers=args.layers,
        batch_size=args.batch_size,
        answers=not args.no_answers,
        max_new_tokens=args.max_new_tokens,
        caption_max_new_tokens=args.caption_max_new_tokens,
    )
    backbone = load_backbone(model_options.spec_of(args.model, args))
    directions = Directions(
        backbone, path=args.direction, contrast=args.contrast, batch_size=max(args.batch_size, 8)
    )
    tools = tools_for(backbone, directions, cache_dir() / "captions.sqlite")
    print(_sentence(plan))
    record(plan, tools, folder, notes)
    _write_directions(args, backbone, tools, folder)
    print(f"captions: {tools.captions.made} made, {tools.captions.reused} found in the store")


def _problems(args: argparse.Namespace) -> Iterator[str]:
    """What is known to be wrong before anything heavy is imported."""
    from shiftdc_eval.analysis.items import twins
    from shiftdc_eval.defenses.contrast import load_contrast
    from shiftdc_eval.judges.registry import get_judge
    from shiftdc_eval.plugin import preflight
    from shiftdc_eval.tasks.catalogue import TASKS

    least = {"items": MINIMUM, "batch_size": 1, "max_new_tokens": 1, "caption_max_new_tokens": 1}
    for name, smallest in least.items():
        value = getattr(args, name)
        if value is not None and value < smallest:
            yield f"--{name.replace('_', '-')} {value}: give a number of at least {smallest}"
    if not args.tasks:
        yield "--tasks is missing: name tasks with harmful items, e.g. --tasks figstep"
    named = [*_names(args.tasks), *_names(args.benign), *_names(args.visual)]
    unknown = [name for name in named if name not in TASKS]
    for name in unknown:
        yield f"no task {name!r}{nearest(name, TASKS)}; `shiftdc-eval tasks` lists them"
    harmful = [name for name in _names(args.tasks) if name in TASKS and not TASKS[name].benign]
    if args.tasks and not unknown and not args.benign and harmful == _names(args.tasks):
        yield from said_by(lambda: twins(harmful))
    yield from preflight.data_problems(named)
    yield from said_by(lambda: get_judge(args.judge))
    yield from preflight.model_problems(model_options.spec_of(args.model, args))
    for path in filter(None, [args.contrast, *args.compare]):
        yield from said_by(lambda path=path: load_contrast(path))  # type: ignore[misc]
    if args.direction and not args.direction.is_file():
        yield f"--direction {args.direction}: there is no such file"
    yield from preflight.output_problems(args.out, "--out")
    yield from preflight.cache_problems()
    # the model's layers are counted in its configuration, which takes the import of torch
    if args.layers is not None:
        from shiftdc_eval.defenses.preflight import problems

        spec = model_options.spec_of(args.model, args)
        yield from problems("shiftdc", {"layers": args.layers}, model=spec)


def _names(text: str | None) -> list[str]:
    return [name for part in (text or "").split(",") if (name := part.strip())]


def _sentence(plan: Plan) -> str:
    answers = f", {len(plan.items) * len(plan.answered)} answers" if plan.answers else ""
    return (
        f"{len(plan.items)} items x {len(plan.conditions)} conditions: {plan.passes()} prefills{answers}, and one "
        "caption an item that the store does not hold"
    )


def _write_directions(args: argparse.Namespace, backbone: Backbone, tools: Tools, folder: Path) -> None:
    """The direction used and those to compare it with, so that the analysis needs no model."""
    from shiftdc_eval.defenses.contrast import load_contrast
    from shiftdc_eval.defenses.directions import cached

    tools.direction().save(folder / "direction.safetensors")
    for path in args.compare:
        found = cached(backbone, load_contrast(path), batch_size=max(args.batch_size, 8))
        found.save(folder / "directions" / f"{path.stem}.safetensors")
