"""What can be known of a run before a model is loaded: everything that is wrong, at once and in seconds.

Nothing here imports torch or lmms-eval, but for the settings of a defense (`defense_problems`). Each function
gives one line a problem.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from shiftdc_eval.core.api.endpoint import ServedModel, api_key
from shiftdc_eval.core.environment import setting
from shiftdc_eval.core.errors import ConfigError, ShiftDCError, said_by
from shiftdc_eval.core.model_spec import ModelArguments
from shiftdc_eval.core.provenance import secret_in
from shiftdc_eval.core.validation import nearest
from shiftdc_eval.core.weights import folder_problems
from shiftdc_eval.plugin.arguments import AdapterArguments, split_arguments, validated
from shiftdc_eval.tasks.catalogue import TWINS

OURS = Path(__file__).parents[1] / "tasks"
NAME_LINE = re.compile(r"^(?:task|group|tag):[ \t]*['\"]?([^\s'\"\[{#]+)", re.MULTILINE)
TAG_LINES = re.compile(r"^tag:[ \t]*(?:\[([^\]]*)\]|((?:\n[ \t]*-[^\n]*)+))", re.MULTILINE)
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
WHERE_TASKS = "`shiftdc-eval tasks` shows ours, `lmms-eval --tasks list` all"
WEIGHTS = ("*.safetensors", "*.bin", "*.safetensors.index.json")


def refuse(problems: Iterable[str]) -> None:
    """Raise if there are problems.

    Raises:
        ConfigError: all of them, a line each.
    """
    if found := list(dict.fromkeys(problems)):
        raise ConfigError("\n".join(found))


# ---- model --------------------------------------------------------------------------------------


def model_problems(model: ModelArguments) -> Iterator[str]:
    """A model that cannot be loaded: no such folder, not a hub id, or not cached while offline."""
    from shiftdc_eval.backbones.bundled.registry import BUNDLED

    name = model.pretrained
    if model.engine == "server":
        yield from said_by(lambda: api_key(ServedModel(name, model.base_url or "")))
        return
    if name in BUNDLED:
        if model.revision is not None:
            yield f"revision={model.revision} has no effect on the bundled model {name}; leave it out"
        return
    folder, where = Path(name), f"cannot load pretrained={name}"
    if model.revision is not None and folder.is_dir():
        yield f"revision={model.revision} has no effect on a local folder; leave it out, or give a hub id"
    bundled = f"a local folder, or one of the bundled models: {', '.join(BUNDLED)}"
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            yield f"{where}: the folder has no config.json"
        elif not any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
            yield f"{where}: the folder has no weights (*.safetensors)"
        yield from (f"{where}: {problem}" for problem in folder_problems(folder))
    elif not HUB_ID.fullmatch(name) or name.startswith("."):
        yield f"{where}: there is no such folder{nearest(name, BUNDLED)}; give a hub id (ORG/NAME), {bundled}"
    elif os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        from huggingface_hub.constants import HF_HUB_CACHE

        if not (Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}").is_dir():
            yield f"{where}: it is not in {HF_HUB_CACHE}, and HF_HUB_OFFLINE is set; unset it, or give {bundled}"


# ---- tasks --------------------------------------------------------------------------------------


@cache
def known_tasks(folders: tuple[str, ...] = ()) -> frozenset[str]:
    """Names of tasks, groups and tags in our folder, in lmms-eval's and in others, as their yaml files give them.

    lmms-eval's own index takes its import, 10 s and more; this reads the names alone.
    """
    spec = find_spec("lmms_eval")
    theirs = [Path(place) / "tasks" for place in (spec.submodule_search_locations or ())] if spec else []
    return frozenset(TWINS).union(*map(_names_in, [str(OURS), *map(str, theirs), *folders]))


def our_tasks() -> frozenset[str]:
    """Names of our tasks, their blank-image twins and groups."""
    return _names_in(str(OURS)) | TWINS.keys()


@cache
def _names_in(folder: str) -> frozenset[str]:
    names: set[str] = set()
    for path in [*Path(folder).rglob("*.yaml"), *Path(folder).rglob("*.yml")]:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        names.update(NAME_LINE.findall(text))
        for listed in TAG_LINES.findall(text):
            names.update(re.findall(r"[\w.-]+", " ".join(listed).replace("- ", " ")))
    return frozenset(names)


def all_ours(names: Sequence[str]) -> bool:
    """Whether every one of the named tasks is ours."""
    known = our_tasks()
    return all(
        name in known or ("*" in name and name.split("*")[0] and _matches(name, known)) for name in names
    )


def _matches(pattern: str, known: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for name in known)


def task_problems(names: Sequence[str], folders: Sequence[str] = ()) -> Iterator[str]:
    """Unknown tasks and missing task folders.

    Args:
        names: as given: names, patterns with `*`, or paths of yaml files and folders.
        folders: further folders with yaml files of tasks.
    """
    for folder in folders:
        if not Path(folder).is_dir():
            yield f"--include_path: no folder {folder}"
    taken = known_tasks().intersection((one for folder in folders for one in _names_in(folder)), names)
    for name in sorted(taken):
        yield f"--include_path: the name {name} is taken by a task that is there already; give yours another name"
    known = known_tasks(tuple(folders))
    for name in names:
        if name not in known and not Path(name).exists() and not ("*" in name and _matches(name, known)):
            like = nearest(name, our_tasks()) or nearest(
                name, known, 0.8
            )  # thousands of names: some are always like
            yield f"no task {name!r}{like}; {WHERE_TASKS}"


def data_problems(names: Sequence[str], limit: str | None = None, judges: Sequence[str] = ()) -> list[str]:
    """Problems with the data of our tasks and with the judges that they name.

    Args:
        names: tasks, groups and patterns; those that are not ours are passed over.
        limit: items that are asked for, as it was given.
        judges: specs of the command line.
    """
    from shiftdc_eval.tasks.preflight import problems

    wanted = [
        one
        for name in names
        for one in (sorted(fnmatch.filter(our_tasks(), name)) if "*" in name else [name])
    ]
    most = int(limit) if limit is not None and limit.isdigit() and int(limit) else None
    return problems(wanted, limit=most, judges=judges)


# ---- judges -------------------------------------------------------------------------------------


def judge_problems(chosen: Sequence[str] = ()) -> Iterator[str]:
    """Judges that cannot be constructed, share a column, or lack their API key or model.

    Args:
        chosen: specs of the command line; without any, those of the variable `SHIFTDC_JUDGES`.
    """
    from shiftdc_eval.judges.registry import get_judge, judges_for

    specs = list(chosen) or [one for one in setting("SHIFTDC_JUDGES").split(",") if one.strip()]
    found = []
    for spec in specs:
        if "," in spec:
            yield f"--judge {spec.partition(':')[0]}: a comma cannot stand in a judge's spec"
            continue
        wrong = said_by(lambda spec=spec: _usable(get_judge(spec)))  # type: ignore[misc]
        found += wrong
        yield from wrong
    if specs and not found:
        yield from said_by(lambda: judges_for([], chosen=specs))


def _usable(judge: Any) -> None:
    """Check a judge's API key or local model.

    Raises:
        ShiftDCError: it has not.
    """
    from shiftdc_eval.judges.local.model import LocalModel

    asked = getattr(judge, "model", None)
    if endpoint := getattr(asked, "endpoint", None):
        api_key(endpoint)
    if isinstance(asked, LocalModel):
        asked.require_known()


# ---- defense ------------------------------------------------------------------------------------


def argument_problems(given: Mapping[str, Any]) -> Iterator[str]:
    """Model arguments that can be checked without importing a defense."""
    from shiftdc_eval.defenses.registry import DEFENSES

    defense = given.get("defense")
    own = {name: value for name, value in given.items() if name in AdapterArguments.model_fields}
    if defense is None or defense not in DEFENSES:
        yield from said_by(lambda: split_arguments(given))
        own["defense"] = "none"
    yield from said_by(lambda: validated(AdapterArguments, own, what="model argument"))
    for name in ("direction", "contrast"):
        path = given.get(name)
        if path is not None and not Path(str(path)).is_file():
            yield f"model argument {name}={path}: there is no such file"
    for name, value in given.items():
        if why := secret_in(str(value)):
            yield f"model argument {name}: {why}; results are written down, leave it out"


def needs_defense(given: Mapping[str, Any]) -> bool:
    """Whether checking these arguments requires importing the defense."""
    own_contrast = Path(str(given.get("pretrained", ""))) / "contrast.jsonl"
    return (
        bool(given.keys() - AdapterArguments.model_fields.keys())
        or bool(given.keys() & {"direction", "contrast"})
        or own_contrast.is_file()
    )


def defense_problems(given: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the defense's settings, engine, layers, contrast set and direction."""
    from shiftdc_eval.defenses.registry import DEFENSES

    if given.get("defense") not in DEFENSES:
        return  # said by `argument_problems`
    try:
        own, settings = split_arguments(given)
        arguments = validated(AdapterArguments, own, what="model argument")
    except ShiftDCError as error:
        yield str(error)
        return
    from shiftdc_eval.defenses.preflight import problems  # seconds: not for a misspelt setting

    direction, contrast = (
        path if path and path.is_file() else None for path in (arguments.direction, arguments.contrast)
    )  # what is no file is said by `argument_problems`
    yield from problems(
        arguments.defense,
        settings,
        model=arguments,
        direction=direction,
        contrast=contrast,
        use_cache=arguments.use_cache,
    )


# ---- files --------------------------------------------------------------------------------------


def cache_problems() -> Iterator[str]:
    """A folder of captions, directions and verdicts that cannot be created or written."""
    if given := setting("SHIFTDC_CACHE"):
        yield from output_problems(Path(given), "the variable SHIFTDC_CACHE:")


def output_problems(folder: Path, option: str) -> Iterator[str]:
    """An output folder that cannot be created or written."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        yield f"{option} {folder}: {there} is a file, not a folder"
    elif not os.access(there, os.W_OK | os.X_OK):
        yield f"{option} {folder}: {there} cannot be written to"
