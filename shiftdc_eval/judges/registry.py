"""Judges by name.

A judge is asked for by a spec: `keyword_robust`, or with settings
`llm_figstep:model=gpt-4o-mini;base_url=http://127.0.0.1:8000/v1`. The setting `as` renames its column,
so that one rubric can stand twice in a table with two judge models. Judges from outside: a list or rubric
by the path of its file (`keyword:list=mine.yaml`, `llm:rubric=./mine.yaml`), and installed packages.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shiftdc_eval.core.entry_points import installed
from shiftdc_eval.core.environment import setting
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.judges.installed import GROUP, load
from shiftdc_eval.judges.keyword import FOLDER, keyword_judge
from shiftdc_eval.judges.user_file import is_path
from shiftdc_eval.judges.verdict import Judge

JUDGES_VARIABLE = "SHIFTDC_JUDGES"
ENGLISH = "en"
_COLUMN = re.compile(r"[a-z0-9_.-]+")

Factory = Callable[[dict[str, str]], Judge]
"""Settings of the spec -> judge; it removes the settings it knows from the dict."""


def _keyword(list_name: str) -> Factory:
    return lambda settings: keyword_judge(list_name, settings.pop("as", ""), settings)


def _own_keyword(settings: dict[str, str]) -> Judge:
    return keyword_judge(_needed(settings, "keyword", "list"), settings.pop("as", ""), settings)


def _model_judge(build: Callable[[Any, dict[str, str]], Judge]) -> Factory:
    """A factory that imports `judges.factory` (pydantic, httpx, torch's users) when it is called."""
    return lambda settings: build(importlib.import_module("shiftdc_eval.judges.factory"), settings)


def _needed(settings: dict[str, str], judge: str, key: str) -> str:
    if value := settings.pop(key, ""):
        return value
    raise ConfigError(f"judge {judge} needs a {key}; add `{key}=FILE.yaml` to its spec (docs/judges.md)")


def _llm(rubric: str, *, guarded: bool = False, parser: str = "") -> Factory:
    name = f"llm_{rubric}" + ("_guarded" if guarded else "_tolerant" if parser else "")
    return _model_judge(
        lambda made, settings: made.llm_judge(name, rubric, settings, guarded=guarded, parser=parser)
    )


def _local(rubric: str, model: str = "") -> Factory:
    return _model_judge(lambda made, settings: made.local_judge(rubric, model, settings))


def _guard(rubric: str, model: str) -> Factory:
    return _model_judge(lambda made, settings: made.guard_judge(rubric, model, settings))


LOCAL_MODELS = {
    "local_harmbench": "cais/HarmBench-Llama-2-13b-cls",
    "local_llama_guard": "meta-llama/Llama-Guard-3-8B",
    "local_llama_guard_4": "meta-llama/Llama-Guard-4-12B",
    "local_llavaguard": "AIML-TUDA/LlavaGuard-v1.2-7B-OV-hf",
    "local_shieldgemma_2": "google/shieldgemma-2-4b-it",
    "local_md_judge": "OpenSafetyLab/MD-Judge-v0.1",
}
"""Judges on this machine that have a model by default -> its hub id."""

JUDGES: Mapping[str, Factory] = {
    **{f"keyword_{path.stem}": _keyword(path.stem) for path in sorted(FOLDER.glob("*.yaml"))},
    "keyword": _own_keyword,
    "llm_mm_safetybench": _llm("mm_safetybench"),
    "llm_mm_safetybench_tolerant": _llm("mm_safetybench", parser="labelled"),
    "llm_mm_safetybench_guarded": _llm("mm_safetybench", guarded=True),
    "llm_figstep": _llm("figstep"),
    "llm_refusal": _llm("refusal"),
    "llm_harmbench": _llm("harmbench"),
    "llm_harmbench_guarded": _llm("harmbench", guarded=True),
    "llm_strongreject": _llm("strongreject"),
    "llm_strongreject_guarded": _llm("strongreject", guarded=True),
    "llm_mmvet": _llm("mmvet"),
    "llm_mmvet_guarded": _llm("mmvet", guarded=True),
    "llm_mossbench": _llm("mossbench"),
    "llm_mossbench_guarded": _llm("mossbench", guarded=True),
    "llm_siuo_safe": _llm("siuo_safe"),
    "llm_siuo_effective": _llm("siuo_effective"),
    "llm_vlsbench": _llm("vlsbench"),
    "llm_mssbench": _llm("mssbench"),
    "llm_llama_guard": _llm("llama_guard"),
    "llm_multimodal": _llm("multimodal"),
    "llm": _model_judge(
        lambda made, settings: made.own_llm_judge(_needed(settings, "llm", "rubric"), settings)
    ),
    "local_harmbench": _local("harmbench", LOCAL_MODELS["local_harmbench"]),
    "local_llama_guard": _local("llama_guard", LOCAL_MODELS["local_llama_guard"]),
    "local_llama_guard_4": _guard("llama_guard_4", LOCAL_MODELS["local_llama_guard_4"]),
    "local_llavaguard": _guard("llavaguard", LOCAL_MODELS["local_llavaguard"]),
    "local_shieldgemma_2": _guard("shieldgemma_2", LOCAL_MODELS["local_shieldgemma_2"]),
    "local_md_judge": _local("md_judge", LOCAL_MODELS["local_md_judge"]),
    "local_rubric": _local(""),
    "local_classifier": _model_judge(lambda made, settings: made.classifier_judge(settings)),
    "local_reward": _model_judge(lambda made, settings: made.reward_judge(settings)),
}
"""Name -> factory of our own judges; every file of `keywords/` is one. Nothing heavy is imported before a factory that
needs it is called."""


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Split `name:key=value;key=value` into the name and its settings.

    Raises:
        ConfigError: a setting has no `=`, or is given twice.
    """
    name, _, rest = spec.strip().partition(":")
    settings: dict[str, str] = {}
    for part in filter(None, map(str.strip, rest.split(";"))):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            # Not shown unless it looks like a setting's name: it might be a key.
            shown = repr(part) if re.fullmatch(r"[a-z_]{1,20}", part) else "(not shown)"
            raise ConfigError(f"judge {name}: setting {shown} is not of the form key=value")
        if key.strip() in settings:
            raise ConfigError(f"judge {name}: setting {key.strip()!r} is given twice")
        settings[key.strip()] = value.strip()
    return name.strip(), settings


def get_judge(spec: str) -> Judge:
    """The judge that a spec names.

    Raises:
        ConfigError: unknown name (the nearest one is named), unknown setting, a column name (`as`) that
            cannot stand in tables and file names, or an installed package's judge that cannot be used.
    """
    name, settings = parse_spec(spec)
    column = settings.get("as")
    if column is not None and not _COLUMN.fullmatch(column):
        raise ConfigError(
            f"judge {name}: as={column!r} cannot be a column's name; use lower-case letters, digits and _ . - only"
        )
    offers = installed(GROUP)
    if name in offers:
        return load(name, offers[name], settings, taken=name in JUDGES)
    if name not in JUDGES:
        known = [*JUDGES, *offers]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        raise ConfigError(f"unknown judge {name!r}; nearest: {near[0]}; `shiftdc-eval judges` lists them")
    own_file = is_path(settings.get("list", "") or settings.get("rubric", ""))
    judge = JUDGES[name](settings)
    if settings:
        raise ConfigError(f"judge {name}: unknown setting {next(iter(settings))!r}")
    if own_file and column is None and judge.name in JUDGES:
        raise ConfigError(
            f"judge {name}: the file's name gives the column {judge.name!r}, which is a judge of this package; "
            "rename the file or add `as=NAME`"
        )
    return judge


def in_languages(specs: Sequence[str], languages: Sequence[str]) -> list[str]:
    """Default judges for answers in these languages: the rules of those languages in place of the English ones."""
    if not set(languages) - {ENGLISH}:
        return list(specs)
    return [
        f"keyword_multilingual:languages={'+'.join(languages)}" if spec == "keyword_robust" else spec
        for spec in specs
    ]


def judges_for(default: Sequence[str], chosen: Sequence[str] = ()) -> list[Judge]:
    """The judges of a task: those of the variable `SHIFTDC_JUDGES` (comma separated), else `default`.

    Args:
        chosen: specs given on the command line, which go before both.

    Raises:
        ConfigError: a spec is wrong, or two judges would share one column.
    """
    named = setting(JUDGES_VARIABLE)
    if chosen:
        specs, origin = list(chosen), "the command's --judge"
    elif named:
        specs, origin = named.split(","), f"the variable {JUDGES_VARIABLE}"
    else:
        specs, origin = list(default), "the task's list of judges"
    judges = [get_judge(spec) for spec in specs if spec.strip()]
    names = [judge.name for judge in judges]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two judges are called {name!r} in {origin}; rename one with `as=`")
    return judges
