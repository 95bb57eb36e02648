"""Every option of lmms-eval with a model of ours: honoured, harmless, or refused before anything is loaded."""

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.plugin.options import (
    OPTIONS,
    gen_kwargs_problems,
    parsed_problems,
    problems,
    read_words,
    refuse_what_lmms_eval_parsed,
)

HONOURED = {
    "model", "tasks", "model_args", "batch_size", "max_batch_size", "device", "output_path", "limit", "offset",
    "log_samples", "include_path", "gen_kwargs", "verbosity", "timezone", "predict_only", "repeats", "show_config",
    "write_out", "process_docs_parallel", "process_with_media", "config",
    "wandb_args", "wandb_log_samples", "swanlab_args", "swanlab_log_samples", "hf_hub_log_args",
}  # fmt: skip
"""Read by our adapter or tasks, or by lmms-eval's own saving, printing and uploading of any model's results."""
REFUSED = {
    "num_fewshot", "use_cache", "cache_requests", "check_integrity", "log_samples_suffix", "system_instruction",
    "apply_chat_template", "fewshot_as_multiturn", "seed", "trust_remote_code", "force_simple", "tui", "max_tokens",
    "power_analysis", "effect_size", "alpha", "power", "correlation", "std_a", "std_b",
}  # fmt: skip
"""Accepted and recorded by lmms-eval, without effect on our models."""
REFUSED_ALONE = {"launcher_args", "reasoning_tags", "agentic_trace_mode", "baseline"}
"""As `REFUSED` where every task is ours; they act on tasks of lmms-eval."""


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    """lmms-eval's own."""
    from lmms_eval.__main__ import parse_eval_args

    before, sys.argv = sys.argv, ["lmms-eval"]
    try:
        found: argparse.ArgumentParser = parse_eval_args()[0]
    finally:
        sys.argv = before
    return found


def test_the_table_is_lmms_evals_parser(parser: argparse.ArgumentParser) -> None:
    theirs = {
        action.dest: (sorted(action.option_strings), action.nargs != 0)
        for action in parser._actions
        if action.dest != "help"
    }
    assert {name: (sorted(o.flags.split()), o.takes_value) for name, o in OPTIONS.items()} == theirs


def test_every_option_is_honoured_or_refused(parser: argparse.ArgumentParser) -> None:
    assert OPTIONS.keys() == HONOURED | REFUSED | REFUSED_ALONE
    given = {name: "1" for name in OPTIONS if name not in ("timezone", "gen_kwargs")}
    said = list(problems(given, ours_only=True))
    for name in OPTIONS:
        hits = [line for line in said if line.startswith(f"{OPTIONS[name].name} is refused")]
        assert len(hits) == (name in REFUSED | REFUSED_ALONE), name
    mixed = " ".join(problems(given, ours_only=False))
    assert not [name for name in REFUSED_ALONE if f"{OPTIONS[name].name} is refused" in mixed]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--output", "x"], "unknown option --output; did you mean --output_path?"),
        (["--model_arg=x"], "unknown option --model_arg; did you mean --model_args?"),
        (["--judge"], None),
        (["--output_path", "a", "--output_path=b"], "--output_path is given twice"),
        (["-n", "2", "--repeats", "2"], "--repeats is given twice"),
        (["--tasks"], "--tasks needs a value"),
        (["--tasks", "--limit", "3"], "--tasks needs a value"),
        (["--log_samples=yes"], "--log_samples takes no value"),
        (["eval", "--tasks", "x"], "unknown option eval"),
    ],
)
def test_a_command_line_that_can_be_misread_is_refused(words: list[str], said: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        read_words(words)
    assert (said or "unknown option") in str(caught.value)


def test_options_are_read_in_either_form() -> None:
    words = ["--tasks", "a,b", "--limit=3", "-b", "auto", "--log_samples", "--device=cpu"]
    assert read_words(words) == {
        "tasks": "a,b",
        "limit": "3",
        "batch_size": "auto",
        "log_samples": True,
        "device": "cpu",
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"limit": "0.5"}, "first task's count"),
        ({"limit": "0"}, "at least 1"),
        ({"limit": "2.5"}, "whole number"),
        ({"limit": "-2"}, "at least 1"),
        ({"limit": "many"}, "whole number"),
        ({"offset": "-1"}, "at least 0"),
        ({"max_batch_size": "nan"}, "whole number"),
        ({"repeats": "3"}, "greedy decoding gives the same answer every time"),
        ({"timezone": "Asia/Singapur"}, "did you mean Asia/Singapore?"),
        ({"wandb_log_samples": True}, "no effect without --wandb_args"),
        ({"hf_hub_log_args": "hub_results_org=x,token=abc"}, "does not belong into a command"),
        ({"model_args": "revision=https://me:word@host/x"}, "user name or password"),
        ({"gen_kwargs": "temperature=0.9"}, "temperature=0.9 has no effect without do_sample=True"),
        ({"gen_kwargs": "top_p=0.9"}, "top_p=0.9 has no effect without do_sample=True"),
        ({"gen_kwargs": "do_sample=True"}, "needs temperature= above 0"),
        ({"gen_kwargs": "api_key=abc"}, "unknown setting api_key"),
        ({"gen_kwargs": "max_new_token=3"}, "did you mean max_new_tokens?"),
        ({"gen_kwargs": "max_new_tokens=0"}, "at least 1"),
        ({"gen_kwargs": "max_new_tokens=few"}, "is not a number"),
        ({"gen_kwargs": "max_new_tokens=1.5"}, "whole number"),
        ({"gen_kwargs": "max_new_tokens=5,max_new_tokens=6"}, "max_new_tokens is given twice"),
        ({"gen_kwargs": "do_sample=True,temperature=1,top_p=7"}, "at most 1"),
        ({"gen_kwargs": "do_sample=True,temperature=1,top_k=-3"}, "at least 0"),
        ({"verbosity": "DEBG"}, "did you mean DEBUG?"),
        ({"gen_kwargs": "num_beams=4"}, "use num_beams=1"),
        ({"gen_kwargs": "do_sample=perhaps,temperature=1"}, "give True or False"),
    ],
)
def test_a_wrong_value_is_one_line(given: dict[str, Any], said: str) -> None:
    (line,) = problems(given, ours_only=True)
    assert said in line
    assert "\n" not in line


def test_right_values_pass() -> None:
    given = {
        "limit": "-1",
        "offset": "0",
        "repeats": "4",
        "timezone": "Europe/Berlin",
        "gen_kwargs": "do_sample=True,temperature=0.9,top_p=0.9,max_new_tokens=8,until=x",
    }
    assert list(problems(given, ours_only=True)) == []
    assert list(gen_kwargs_problems({"temperature": 0, "top_k": 0, "top_p": 1.0, "num_beams": 1}, "x")) == []


def test_a_secret_given_as_a_word_is_refused_without_repeating_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "canary4711")
    (line,) = problems({"model_args": "system_prompt=canary4711"}, ours_only=True)
    assert "MY_API_KEY" in line
    assert "canary4711" not in line


def test_defaults_of_lmms_eval_are_no_problem(parser: argparse.ArgumentParser) -> None:
    usual = vars(parser.parse_args([]))
    assert list(parsed_problems(usual, usual)) == []
    changed = vars(parser.parse_args(["--seed", "4", "--limit", "3", "--tasks", "figstep"]))
    (line,) = parsed_problems(changed, usual)
    assert line.startswith("--seed is refused")


@pytest.mark.parametrize("from_file", [False, True])
def test_a_plain_lmms_eval_is_checked_too(
    parser: argparse.ArgumentParser, from_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--use_cache", "x", "--tasks", "figstep"]
    if from_file:
        (tmp_path / "runs.yaml").write_text("- {tasks: figstep}\n- {tasks: figstep, use_cache: x}\n")
        words = ["--config", str(tmp_path / "runs.yaml")]
    monkeypatch.setattr(sys, "argv", ["/bin/lmms-eval", *words])
    with pytest.raises(ConfigError, match="--use_cache is refused"):
        refuse_what_lmms_eval_parsed()
    monkeypatch.setattr(sys, "argv", ["/bin/pytest", *words])
    refuse_what_lmms_eval_parsed()


def test_the_documentation_has_every_refused_option_with_its_reason() -> None:
    page = (Path(__file__).parents[2] / "docs" / "options.md").read_text(encoding="utf-8")
    rows = {}
    for row in page.splitlines():
        if row.startswith("| `--"):
            flag, reason = row.strip("| ").split(" | ")
            rows[flag.strip("`")] = reason.removeprefix("where every task is ours: ")
    assert rows == {option.name: option.refused for option in OPTIONS.values() if option.refused}
    assert all(f"`{option.name}`" in page for option in OPTIONS.values())
