"""Files that a sweep's cells need and a grid file only names: contrast sets and other models' directions.

`contrast: "contrast:40"` is a part of 40 pairs of the model's own contrast set, spread over its categories and
nested in the part of 80; `contrast:shuffled` has the sides of about every other pair exchanged, so that it carries
no information; `contrast:built_in` is this package's own set. `direction: "other:PATH"` is the direction of another
model of the same shape: a direction file, or a model to fit one on. Every file's name holds a hash of its content (of a
local model: of its files), so that a cell that was run with other content is run again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shiftdc_eval.core.errors import ConfigError, DirectionError
from shiftdc_eval.core.files import atomic_write
from shiftdc_eval.defenses.contrast import BUILT_IN, ContrastPair, load_contrast, plain
from shiftdc_eval.grid.file import DefenseEntry, Grid
from shiftdc_eval.steering import SafetyDirection

if TYPE_CHECKING:
    from shiftdc_eval.backbones import Backbone

CONTRAST, OTHER = "contrast:", "other:"


def with_entries(grid: Grid, contrasts: Iterable[str], directions: Iterable[str]) -> Grid:
    """The same grid with the user's own contrast sets and directions as further ablations of its ShiftDC.

    Raises:
        ConfigError: the grid has no ShiftDC to change.
    """
    wanted = [("contrast", path, f"contrast set {Path(path).stem}") for path in contrasts]
    wanted += [("direction", f"{OTHER}{path}", f"direction of {_name(path)}") for path in directions]
    base = next((one for one in grid.defenses if one.name == "shiftdc" and not one.ablation), None)
    if wanted and base is None:
        raise ConfigError(
            "--contrast and --direction vary the sweep's shiftdc entry without ablation; it has none"
        )
    added = [
        DefenseEntry(name="shiftdc", ablation=why, **{**(base.settings if base else {}), key: value})
        for key, value, why in wanted
    ]
    return grid.model_copy(update={"defenses": [*grid.defenses, *added]})


def with_files(grid: Grid, folder: Path, home: Path) -> tuple[Grid, dict[Path, str]]:
    """The same grid with paths in place of names; contrast sets are written, directions are still to be made.

    Args:
        grid: the grid.
        folder: where the files go.
        home: folder that relative paths of other directions may be meant from, after the working directory.

    Returns:
        The grid, and direction file -> what it is to be made from.

    Raises:
        ConfigError: a set of more pairs than there are, a word that is not known, a direction that is not there,
            or several models with one other direction or with contrast sets of their own.
        DataError: a given contrast set cannot be read.
        DirectionError: a given direction file cannot be read.
    """
    defenses, directions = [], {}
    for entry in grid.defenses:
        contrast, direction = (str(entry.settings.get(name, "")) for name in ("contrast", "direction"))
        if contrast.startswith(CONTRAST):
            which = contrast.removeprefix(CONTRAST)
            if which != "built_in" and len({own_contrast(model.pretrained) for model in grid.models}) > 1:
                raise ConfigError(
                    f"contrast: {contrast}: these models bring contrast sets of their own; give each its own grid"
                )
            path = write_contrast(grid.models[0].pretrained, which, folder)
            entry = entry.model_copy(update={"contrast": str(path)})
        elif contrast:
            load_contrast(Path(contrast))  # fails now, not after hours
            entry = entry.model_copy(update={"contrast": str(_copied(Path(contrast), folder))})
        if direction.startswith(OTHER):
            if len(grid.models) > 1:
                raise ConfigError(f"direction: {direction}: a sweep of other directions takes one model")
            given = direction.removeprefix(OTHER)
            local = [place for place in (Path(given), home / given) if place.exists()]
            if not local and (given.startswith(("/", "~", "./", "../")) or given.endswith(".safetensors")):
                raise ConfigError(f"direction: {given}: there is no such file or folder")
            source = str(local[0]) if local else given
            path = folder / f"{_name(given)}-{_digest_of(source)}.safetensors"
            directions[path] = source
            entry = entry.model_copy(update={"direction": str(path)})
        defenses.append(entry)
    return grid.model_copy(update={"defenses": defenses}), directions


def _copied(path: Path, folder: Path) -> Path:
    content = path.read_bytes()
    target = folder / f"{path.stem}-{_short(content)}{path.suffix}"
    atomic_write(target, content.decode("utf-8"))
    return target


def _digest_of(source: str) -> str:
    """Hash of a direction file's content, or of a model's name and the files that it names now."""
    from shiftdc_eval.backbones.loading import revision_on_disk

    if Path(source).is_file():
        return SafetyDirection.load(Path(source)).sha256[:8]
    return _short(json.dumps([source, revision_on_disk(source)]).encode())


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def _name(path: str) -> str:
    return Path(path).name.removesuffix(".safetensors")


def own_contrast(model: str) -> Path | None:
    """The contrast set that comes with a model; None where the built-in one is used."""
    from shiftdc_eval.backbones.bundled.registry import BUNDLED

    home = BUNDLED[model]()[0] if model in BUNDLED else Path(model)
    path = home / "contrast.jsonl"
    return path if path.is_file() else None


def write_contrast(model: str, which: str, folder: Path) -> Path:
    """A contrast set as a file.

    Args:
        model: whose own set (the built-in one where it has none) is cut or shuffled.
        which: `shuffled`, `built_in` or a number of pairs.
        folder: where it goes.

    Raises:
        ConfigError: none of these, or more pairs than the set has.
    """
    contrast = load_contrast(own_contrast(model))
    pairs = contrast.pairs
    if which == "built_in":
        return BUILT_IN
    if which == "shuffled":
        rows = _shuffled(pairs)
    elif which.isdigit() and 8 <= int(which) <= len(pairs):
        rows = [_row(pair, swap=False) for pair in contrast.spread()[: int(which)]]
    else:
        raise ConfigError(
            f"contrast: {CONTRAST}{which}: give {CONTRAST}shuffled, {CONTRAST}built_in or a number from 8 to "
            f"{len(pairs)}"
        )
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path = folder / f"{which}-{_short(text.encode())}.jsonl"
    atomic_write(path, text)
    return path


def _shuffled(pairs: Sequence[ContrastPair]) -> list[dict[str, str]]:
    """Every other pair with its sides exchanged; a request that several pairs share keeps one side."""
    sides: dict[str, str] = {}
    rows = []
    for at, pair in enumerate(pairs):
        for swap in (at % 2 == 0, at % 2 == 1):
            row = _row(pair, swap=swap)
            wanted = {plain(row[side]): side for side in ("unsafe", "safe")}
            if all(sides.get(request, side) == side for request, side in wanted.items()):
                sides |= wanted
                rows.append(row)
                break
    return rows


def _row(pair: ContrastPair, *, swap: bool) -> dict[str, str]:
    unsafe, safe = ("safe", "unsafe") if swap else ("unsafe", "safe")
    row = {
        "id": pair.id,
        "category": pair.category,
        "unsafe": getattr(pair, unsafe),
        "safe": getattr(pair, safe),
    }
    if pair.unsafe_caption is not None:
        row["unsafe_caption"] = getattr(pair, f"{unsafe}_caption")
        row["safe_caption"] = getattr(pair, f"{safe}_caption")
    return {name: value for name, value in row.items() if value}


def make_directions(wanted: Mapping[Path, str], backbone: Backbone) -> None:
    """Write other models' directions as this model's, for cells that are marked as ablations.

    Raises:
        DirectionError: another shape, or a damaged file.
        ModelError: neither a direction file nor a model.
    """
    for path, source in wanted.items():
        if path.is_file() and _is_of(SafetyDirection.load(path), backbone):
            continue
        found = _direction_of(source)
        shape, own = (found.layers, found.hidden), (len(backbone.layers), backbone.hidden_size)
        if shape != own:
            raise DirectionError(
                f"{source}: its direction has {shape[0]} layers x {shape[1]}, {backbone.name} {own[0]} x {own[1]}; "
                "another model's direction must have the same shape"
            )
        dataclasses.replace(
            found,
            model=backbone.name,
            revision=backbone.revision,
            template_sha256=backbone.template_sha256,
            created_by=f"fitted on {found.model}@{found.revision[:12]}, used as an ablation",
        ).save(path)


def _is_of(direction: SafetyDirection, backbone: Backbone) -> bool:
    own = (backbone.name, backbone.revision, backbone.template_sha256)
    return (direction.model, direction.revision, direction.template_sha256) == own


def _direction_of(source: str) -> SafetyDirection:
    from shiftdc_eval.backbones import ModelSpec, load_backbone
    from shiftdc_eval.defenses.directions import Directions

    if Path(source).suffix == ".safetensors":
        return SafetyDirection.load(Path(source))
    return Directions(load_backbone(ModelSpec(source)))()
