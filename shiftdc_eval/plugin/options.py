"""lmms-eval's options with a model of ours: each is honoured, harmless, or refused before anything is loaded.

lmms-eval accepts and records options that have no effect on our models; a result would then claim what did not
happen. `shiftdc-eval run` reads the words of its command line by this table, which needs no import of lmms-eval
(10 s); under a plain `lmms-eval` the adapter checks what its parser has found.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import available_timezones

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.provenance import NAMED, secret_in
from shiftdc_eval.core.validation import nearest

GENERATION = (
    "max_new_tokens",
    "max_gen_toks",
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "num_beams",
    "until",
)
"""Generation settings that our models know."""
SAMPLING = {"temperature": (0.0,), "top_p": (0.0, 1.0), "top_k": (0.0,)}
"""Setting that only sampling uses -> values that change nothing."""
WHOLE = ("max_new_tokens", "max_gen_toks", "top_k")
"""Settings that are whole numbers: a fraction would be cut off."""
LEVELS = ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")
"""What `--verbosity` takes: loguru's levels."""
NO_SUITE = "lmms-eval's package does not hold the tests that it would run"
POWER = "it belongs to lmms-eval's power analysis; use `lmms-eval power`"
BOARD = "our tasks have no field `score`; `shiftdc-eval board` compares defenses item by item"


@dataclass(frozen=True)
class Option:
    """One option of lmms-eval's parser."""

    flags: str
    """As they are written, separated by spaces; the first one is shown."""
    takes_value: bool = True
    refused: str = ""
    """Why it is refused with our models; empty where it is honoured or harmless."""
    ours_only: bool = False
    """Refused only where every task is ours: it acts on tasks of lmms-eval."""
    numbers: str = ""
    """What a number has to be: `positive`, `not negative` or `limit`; empty for texts."""

    @property
    def name(self) -> str:
        """The flag that is shown."""
        return self.flags.split()[0]


OPTIONS: Mapping[str, Option] = {
    "config": Option("--config"),
    "model": Option("--model"),
    "tasks": Option("--tasks"),
    "model_args": Option("--model_args"),
    "launcher_args": Option(
        "--launcher_args", refused="our judges start no server; name one with --judge", ours_only=True
    ),
    "num_fewshot": Option("--num_fewshot", refused="our models answer chats without examples"),
    "batch_size": Option("--batch_size -b"),
    "max_batch_size": Option("--max_batch_size", numbers="positive"),
    "device": Option("--device"),
    "output_path": Option("--output_path"),
    "limit": Option("--limit", numbers="limit"),
    "offset": Option("--offset", numbers="not negative"),
    "use_cache": Option(
        "--use_cache -c",
        refused="it returns answers of weights that have since been replaced; the journal keeps finished answers "
        "and knows the weights, just run the same command again",
    ),
    "cache_requests": Option(
        "--cache_requests", refused="requests are made anew, so that a changed prompt counts"
    ),
    "check_integrity": Option("--check_integrity", False, refused=NO_SUITE),
    "write_out": Option("--write_out -w", False),
    "log_samples": Option("--log_samples", False),
    "wandb_log_samples": Option("--wandb_log_samples", False),
    "swanlab_log_samples": Option("--swanlab_log_samples", False),
    "log_samples_suffix": Option("--log_samples_suffix", refused="lmms-eval does not use it"),
    "system_instruction": Option(
        "--system_instruction", refused="use system_prompt= in --model_args (in quotes where it has a comma)"
    ),
    "apply_chat_template": Option(
        "--apply_chat_template", False, refused="the model's chat template is always applied; leave it out"
    ),
    "fewshot_as_multiturn": Option(
        "--fewshot_as_multiturn", False, refused="our models answer chats without examples"
    ),
    "show_config": Option("--show_config", False),
    "include_path": Option("--include_path"),
    "gen_kwargs": Option("--gen_kwargs"),
    "reasoning_tags": Option(
        "--reasoning_tags",
        refused="our judges find the final answer of a reasoning model themselves",
        ours_only=True,
    ),
    "verbosity": Option("--verbosity"),
    "wandb_args": Option("--wandb_args"),
    "swanlab_args": Option("--swanlab_args"),
    "timezone": Option("--timezone"),
    "hf_hub_log_args": Option("--hf_hub_log_args"),
    "predict_only": Option("--predict_only -x", False),
    "seed": Option(
        "--seed", refused="use seed= in --model_args, with do_sample=True,temperature=T in --gen_kwargs"
    ),
    "trust_remote_code": Option(
        "--trust_remote_code", False, refused="use trust_remote_code=True in --model_args"
    ),
    "process_with_media": Option("--process_with_media", False),
    "process_docs_parallel": Option("--process-docs-parallel --process_docs_parallel", numbers="positive"),
    "agentic_trace_mode": Option(
        "--agentic_trace_mode", refused="none of our tasks has several rounds", ours_only=True
    ),
    "force_simple": Option("--force_simple", False, refused="our models have a chat class only"),
    "tui": Option("--tui", False, refused="use `lmms-eval tui`"),
    "repeats": Option("--repeats -n --num_samples", numbers="positive"),
    "baseline": Option("--baseline", refused=BOARD, ours_only=True),
    "max_tokens": Option(
        "--max_tokens", refused="our models have no token budget; use max_new_tokens= in --gen_kwargs"
    ),
    "power_analysis": Option("--power-analysis", False, refused=POWER),
    "effect_size": Option("--effect-size", refused=POWER),
    "alpha": Option(
        "--alpha", refused="it belongs to lmms-eval's power analysis; ShiftDC's is in --model_args"
    ),
    "power": Option("--power", refused=POWER),
    "correlation": Option("--correlation", refused=POWER),
    "std_a": Option("--std-a", refused=POWER),
    "std_b": Option("--std-b", refused=POWER),
}
"""Every option of lmms-eval 0.7.3, by the name of its value."""
FLAGS = {flag: name for name, option in OPTIONS.items() for flag in option.flags.split()}


def read_words(words: Sequence[str]) -> dict[str, str | bool]:
    """The options of a command line, by name; switches are True.

    Raises:
        ConfigError: an unknown or abbreviated option, one without its value, or one given twice.
    """
    found: dict[str, str | bool] = {}
    waiting = list(words)
    while waiting:
        flag, equals, value = waiting.pop(0).partition("=")
        if flag not in FLAGS:
            raise ConfigError(f"unknown option {flag}{nearest(flag, [*FLAGS, '--judge'])}")
        name = FLAGS[flag]
        option = OPTIONS[name]
        if name in found:
            raise ConfigError(f"{flag} is given twice; only one would count")
        if not option.takes_value:
            if equals:
                raise ConfigError(f"{flag} takes no value")
            found[name] = True
            continue
        if not equals:
            if not waiting or waiting[0] in FLAGS:
                raise ConfigError(f"{flag} needs a value")
            value = waiting.pop(0)
        found[name] = value
    return found


def problems(given: Mapping[str, object], *, ours_only: bool) -> Iterator[str]:
    """What is wrong with options for a model of ours, a line each.

    Args:
        given: options that are not at their defaults, by name.
        ours_only: whether every task is ours.
    """
    for name, value in given.items():
        option = OPTIONS[name]
        if option.refused and (ours_only or not option.ours_only):
            yield f"{option.name} is refused with our models: {option.refused}"
        elif why := secret_in(str(value)):
            yield f"{option.name}: {why}; a command is written down, so give it in a variable that the server reads"
        elif name == "verbosity" and str(value) not in LEVELS:
            yield f"--verbosity {value} is unknown{nearest(str(value), LEVELS)}; there are {', '.join(LEVELS)}"
        elif option.numbers and (wrong := _number(str(value), option.numbers)):
            yield f"{option.name} {value}: {wrong}"
    generation = _pairs(text := str(given.get("gen_kwargs", "")))
    names = [piece.partition("=")[0].strip() for piece in text.split(",")]
    for name in dict.fromkeys(name for name in names if name and names.count(name) > 1):
        yield f"--gen_kwargs: {name} is given twice; only one would count"
    yield from gen_kwargs_problems(generation, "--gen_kwargs")
    for name in ("wandb", "swanlab"):
        if f"{name}_log_samples" in given and f"{name}_args" not in given:
            yield f"--{name}_log_samples has no effect without --{name}_args"
    for name in ("hf_hub_log_args", "wandb_args", "swanlab_args"):
        if any(NAMED.fullmatch(f"{key}=x") for key in _pairs(str(given.get(name, "")))):
            yield f"--{name}: a key does not belong into a command; log in or set its variable (HF_TOKEN)"
    zone = given.get("timezone")
    if zone is not None and zone not in available_timezones():
        yield f"--timezone {zone} is unknown{nearest(str(zone), available_timezones())}"
    sampled = generation.get("do_sample", "").lower() == "true"
    if ours_only and not sampled and str(given.get("repeats", 1)) not in ("0", "1"):
        yield (
            f"--repeats {given['repeats']}: greedy decoding gives the same answer every time; add "
            "do_sample=True,temperature=T to --gen_kwargs"
        )


def parsed_problems(given: Mapping[str, object], usual: Mapping[str, object]) -> Iterator[str]:
    """As `problems`, of what lmms-eval's parser found under a plain `lmms-eval`.

    Args:
        given: what it found, by name.
        usual: its defaults.
    """
    from shiftdc_eval.plugin.preflight import all_ours

    changed = {name: value for name, value in given.items() if name in OPTIONS and value != usual.get(name)}
    tasks = [name for name in str(given.get("tasks") or "").split(",") if name]
    yield from problems(changed, ours_only=all_ours(tasks))


def refuse_what_lmms_eval_parsed() -> None:
    """Check the options of a plain `lmms-eval` before a model of ours is loaded; nothing where it was not called.

    Raises:
        ConfigError: a line each for what has no effect or is wrong.
    """
    import yaml

    from shiftdc_eval.plugin.preflight import refuse

    command = sys.modules.get("lmms_eval.__main__")
    program = Path(sys.argv[0])
    if command is None or not {"lmms-eval", "lmms_eval"} & {program.stem, program.parent.name}:
        return
    parser, found = command.parse_eval_args()
    usual = vars(parser.parse_args([]))
    several: list[dict[str, object]] = [{}]
    if found.config:
        content = yaml.safe_load(Path(found.config).read_text(encoding="utf-8"))
        several = content if isinstance(content, list) else [content]
    for one in several:
        refuse(parsed_problems({**vars(found), **one}, usual))


def gen_kwargs_problems(given: Mapping[str, object], where: str) -> Iterator[str]:
    """What is wrong with generation settings that a user gives in place of a task's.

    Args:
        given: setting -> value, texts or numbers.
        where: what they are called in messages.
    """
    for name, value in given.items():
        if name not in GENERATION:
            yield f"{where}: unknown setting {name}{nearest(name, GENERATION)}; there are {', '.join(GENERATION)}"
        elif name not in ("until", "do_sample") and _as_number(value) is None:
            yield f"{where}: {name}={value} is not a number"
        elif name in ("max_new_tokens", "max_gen_toks") and not (_as_number(value) or 0) >= 1:
            yield f"{where}: {name}={value}: give a number of at least 1"
        elif name in WHOLE and _as_number(value) != int(_as_number(value) or 0):
            yield f"{where}: {name}={value}: give a whole number"
        elif name in SAMPLING and (_as_number(value) or 0) < 0:
            yield f"{where}: {name}={value}: give a number of at least 0"
        elif name == "top_p" and (_as_number(value) or 0) > 1:
            yield f"{where}: top_p={value}: give a number of at most 1"
        elif name == "num_beams" and _as_number(value) != 1:
            yield f"{where}: num_beams={value}: beam search is not supported; use num_beams=1"
    sampled = str(given.get("do_sample", "")).lower()
    if sampled not in ("", "true", "false"):
        yield f"{where}: do_sample={given['do_sample']}: give True or False"
    elif sampled == "true":
        if not (_as_number(given.get("temperature", 0)) or 0) > 0:
            yield f"{where}: do_sample=True needs temperature= above 0 too"
    else:
        used = [n for n, idle in SAMPLING.items() if n in given and _as_number(given[n]) not in (*idle, None)]
        for name in used:
            yield f"{where}: {name}={given[name]} has no effect without do_sample=True"


def _pairs(text: str) -> dict[str, str]:
    pieces = (piece.partition("=") for piece in text.split(",") if piece.strip())
    return {name.strip(): value.strip() for name, _, value in pieces}


def _as_number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _number(text: str, kind: str) -> str:
    """What is wrong with a number; empty where nothing is."""
    value = _as_number(text)
    if kind == "limit" and value is not None and 0 < value < 1:
        return "lmms-eval would use the first task's count for every task; give a number of items"
    if value is None or value != int(value):
        return "give a whole number"
    least = 0 if kind == "not negative" else 1
    if value < least and not (kind == "limit" and value == -1):
        return f"give a number of at least {least}"
    return ""
