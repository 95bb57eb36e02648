"""`shiftdc-eval explain RUN SAMPLE`: one answered sample, its safety coordinate over the layers.

Runs the sample's request again as captioned text, as image and with ShiftDC, and shows the three curves, the
caption and both answers: in the terminal, and with --out as a page. The answer under the run's own defense is
the stored one; the other is generated now.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shiftdc_eval.core.errors import ConfigError, DirectionError, ModelError, RecordError

if TYPE_CHECKING:
    from shiftdc_eval.backbones import Chat, ModelSpec
    from shiftdc_eval.core.records import RunRecord, SampleField
    from shiftdc_eval.defenses import Tools
    from shiftdc_eval.defenses.shiftdc import ShiftDC

CURVES = ("text_caption", "image", "calibrated")
BAR = 24
"""Width of the terminal plot, in characters."""


@dataclass(frozen=True)
class Answered:
    """A sample row and the run it came from."""

    task: str
    field: SampleField
    response: str | None
    record: RunRecord


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", type=Path, help="results folder or samples file of a run")
    parser.add_argument("sample", help="item id as the sample viewer shows it, e.g. figstep/1_3")
    parser.add_argument("-o", "--out", type=Path, help="page to write; its plot is written beside it")
    parser.add_argument("--direction", type=Path, help="safety direction file, if the run was given one")
    parser.add_argument("--contrast", type=Path, help="contrast set, if the run was given one")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    parser.add_argument("--device-map", help="auto shards one model over the devices")


def main(args: argparse.Namespace) -> int:
    """Find the sample, run it, show it.

    Raises:
        RecordError: no such sample, or a run that does not say which model answered.
        ConfigError, DirectionError, ModelError: the task, direction or model is not the run's any more.
    """
    from shiftdc_eval.core.terminal import say

    found = find(args.run, args.sample)
    shown = explain(found, args)
    for line in in_words(shown):
        say(line, keep="\n\t")
    if args.out:
        _write_page(shown, args.out)
        say(f"page: {args.out}")
    return 0


def find(run: Path, sample: str) -> Answered:
    """The first answer to an item below a results folder.

    Raises:
        RecordError: there is none, or its run record is missing.
    """
    from shiftdc_eval.core.records import SampleField
    from shiftdc_eval.core.results_folder import ITEM_FIELD, RunRecords, sample_files

    records = RunRecords([run])
    seen: list[str] = []
    for file in sample_files([run]):
        for number, row in file.rows():
            if "shiftdc" not in row:
                continue
            field = SampleField.model_validate(row["shiftdc"])
            seen.append(field.item)
            if field.item != sample:
                continue
            source = f"{file.path}:{number}"
            if field.run is None:
                raise RecordError(
                    f"{source}: a model other than ours answered; only our own models can be explained"
                )
            response = (row.get(ITEM_FIELD) or {}).get("response")
            return Answered(file.task, field, response, records.get(field.run, source))
    raise RecordError(
        f"{run}: no sample {sample!r} among {len(seen)} rows; ids look like {seen[0] if seen else 'figstep/1_3'!r}"
    )


def explain(found: Answered, args: argparse.Namespace) -> dict[str, Any]:
    """Curves, caption and answers of a sample, JSON-ready."""
    from shiftdc_eval.analysis.recording import tools_for
    from shiftdc_eval.backbones import load_backbone
    from shiftdc_eval.core.paths import cache_dir
    from shiftdc_eval.defenses.directions import Directions

    record = found.record
    if record.engine == "server":
        raise ModelError(
            f"run {record.id}: {record.model} answered behind a server, where its activations cannot be seen; explain "
            "needs a run of a model that is loaded here"
        )
    chat = _chat(found)
    backbone = load_backbone(spec_of(record, args))
    if backbone.revision != record.revision:
        raise ModelError(
            f"{record.model} has revision {backbone.revision[:12]} here, the run was made with "
            f"{record.revision[:12]}: its answers came from other weights"
        )
    directions = Directions(backbone, path=args.direction, contrast=args.contrast)
    tools = tools_for(backbone, directions, cache_dir() / "captions.sqlite")
    _check_direction(record, tools)
    return _measured(found, tools, chat, _defense(record))


def _check_direction(record: RunRecord, tools: Tools) -> None:
    """Refuse another safety direction than the run's; vectors of a defense's own (`subspace`) are none."""
    from shiftdc_eval.defenses import DEFENSES
    from shiftdc_eval.defenses.preflight import uses_direction

    kind = DEFENSES.get(record.defense)
    if kind is None or record.direction_sha256 is None:
        return
    own = kind(**{name: value for name, value in record.settings.items() if name in kind.model_fields})
    here = own.direction_of(tools) if uses_direction(own) else None
    if here is not None and here.sha256 != record.direction_sha256:
        raise DirectionError(
            f"the run used direction {record.direction_sha256[:12]}, this one is {here.sha256[:12]}; give the run's "
            "with --direction or --contrast"
        )


def spec_of(record: RunRecord, args: argparse.Namespace) -> ModelSpec:
    """The run's model, a hub's at the run's commit."""
    from shiftdc_eval.backbones import ModelSpec

    commit = record.revision if re.fullmatch("[0-9a-f]{40}", record.revision) else None
    return ModelSpec(
        record.model, revision=commit, dtype=record.dtype, device=args.device, device_map=args.device_map
    )


def _chat(found: Answered) -> Chat:
    from shiftdc_eval.analysis.items import load_task
    from shiftdc_eval.backbones import Chat
    from shiftdc_eval.core.hashing import image_sha256

    examples = {example.id: example for example in load_task(found.task).source.examples}
    example = examples.get(found.field.item)
    if example is None:
        raise ConfigError(
            f"task {found.task} holds no item {found.field.item} here; is the data another version?"
        )
    if example.image is None:
        raise ConfigError(
            f"{found.field.item} has no image: ShiftDC leaves it alone, there is nothing to compare"
        )
    image = example.image()
    if [image_sha256(image)] != found.field.image_sha256:
        raise ConfigError(
            f"the image of {found.field.item} is not the one that was answered; is the data another version?"
        )
    return Chat.ask(example.prompt, [image], system=found.record.system_prompt)


def _defense(record: RunRecord) -> ShiftDC:
    """The run's own ShiftDC, or the default one for runs of other defenses."""
    from shiftdc_eval.defenses import DEFENSES
    from shiftdc_eval.defenses.shiftdc import ShiftDC
    from shiftdc_eval.defenses.shiftdc_captioned import ShiftDCCaptioned

    kind = DEFENSES.get(record.defense)
    # a run with given captions is shown like any other defense's: the curves use the model's own caption
    if kind is not None and issubclass(kind, ShiftDC) and not issubclass(kind, ShiftDCCaptioned):
        settings: dict[str, Any] = {
            name: value for name, value in record.settings.items() if name in kind.model_fields
        }
        return kind(**settings)
    return ShiftDC()


def _measured(found: Answered, tools: Tools, chat: Chat, defense: ShiftDC) -> dict[str, Any]:
    from shiftdc_eval.analysis.recorder import calibrated
    from shiftdc_eval.defenses.base import Request
    from shiftdc_eval.defenses.none import undefended
    from shiftdc_eval.defenses.shiftdc import counterpart
    from shiftdc_eval.steering import safety_coordinate

    record, backbone = found.record, tools.backbone
    settings = _settings(found)
    caption = defense.captions(tools, [chat], settings)[0]
    # behind a gate some answers are undefended
    own_is_shiftdc = record.defense == defense.name and "gate" not in record.settings
    edited, answers = calibrated(tools, defense, [chat], settings, answers=not own_is_shiftdc)
    plain = (
        found.response if record.defense == "none" else undefended(tools, [Request(chat)], settings)[0].text
    )
    activations = {
        "text_caption": backbone.last_token_activations([counterpart(chat, caption)]),
        "image": backbone.last_token_activations([chat]),
        "calibrated": edited,
    }
    vectors = tools.direction().vectors
    layers = defense.layer_indices(backbone)
    return {
        "item": found.field.item,
        "task": found.task,
        "model": record.model,
        "note": record.model_note,
        "prompt": chat.request,
        "caption": caption,
        "layers": f"{layers[0]}-{layers[-1]}",
        "defense": defense.name,
        "settings": defense.resolved(backbone),
        "curves": {
            name: [float(f"{value:.6g}") for value in safety_coordinate(x[0].cpu(), vectors).tolist()]
            for name, x in activations.items()
        },
        "answers": {
            "without a defense": plain,
            f"under {defense.name}": found.response if own_is_shiftdc else answers[0].text,
        },
        "run": {"id": record.id, "defense": record.defense, "response": found.response},
    }


def _settings(found: Answered) -> Any:
    """Greedy decoding, as long as the run's answers were."""
    from shiftdc_eval.backbones import GenerationSettings

    task = next((task for task in found.record.tasks if task.name == found.task), None)
    limit = task.generation.get("max_new_tokens") if task else None
    return GenerationSettings(max_new_tokens=int(limit) if isinstance(limit, int) else 512)


def in_words(shown: Mapping[str, Any]) -> list[str]:
    """The sample as lines of text."""
    curves: Mapping[str, Sequence[float]] = shown["curves"]
    first, last = map(int, shown["layers"].split("-"))
    low = min(min(curve) for curve in curves.values())
    high = max(max(curve) for curve in curves.values())
    lines = [
        f"{shown['item']} ({shown['task']}) on {shown['model']}",
        f"request: {shown['prompt']}",
        f"caption: {shown['caption']}",
        "",
        f"{'layer':<6} {'text':>8} {'image':>8} {'after':>8}  safety coordinate: T text, I image, A after "
        f"{shown['defense']}",
    ]
    for layer, values in enumerate(zip(*(curves[name] for name in CURVES), strict=True)):
        numbers = " ".join(f"{value:8.3f}" for value in values)
        mark = "*" if first <= layer <= last else " "
        lines.append(f"{layer:<5}{mark} {numbers}  {_bar(values, low, high)}")
    lines.append(f"{'':6} low ({low:.2f}) is unsafe, high ({high:.2f}) is safe; * calibrated layer")
    lines.append("")
    for name, answer in shown["answers"].items():
        lines.append(f"{name}: {'(no response)' if answer is None else answer}")
    if shown["run"]["defense"] not in ("none", shown["defense"]):
        lines.append(f"under the run's own {shown['run']['defense']}: {shown['run']['response']}")
    return lines


def _bar(values: Sequence[float], low: float, high: float) -> str:
    places = ["."] * BAR
    for letter, value in zip("TIA", values, strict=True):
        at = round((value - low) / max(high - low, 1e-9) * (BAR - 1))
        places[at] = letter if places[at] == "." else "+"
    return "".join(places)


def _write_page(shown: Mapping[str, Any], path: Path) -> None:
    from shiftdc_eval.analysis import page, plots
    from shiftdc_eval.core.files import atomic_write

    picture = path.with_suffix(".svg")
    curves = {name: {"value": values} for name, values in shown["curves"].items()}
    plots.curve_figure([("safety coordinate", curves, None)], picture, spans=shown["layers"])
    atomic_write(path, page.render_sample(shown, picture.name))
