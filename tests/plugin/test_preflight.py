"""What is known to be wrong before a model is loaded, all at once."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from shiftdc_eval.cli import main
from shiftdc_eval.core.model_spec import ModelArguments, ModelSpec
from shiftdc_eval.plugin import preflight, run

RIGHT = ["--model", "shiftdc_vlm", "--model_args", "pretrained=toy,defense=none", "--tasks", "toy_figstep"]


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_stream", lambda command, streamed: pytest.fail("a process was started"))


def said(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(["run", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("shiftdc-eval run: ") for line in lines)
    return [line.removeprefix("shiftdc-eval run: ") for line in lines]


def replaced(option: str, value: str) -> list[str]:
    words = list(RIGHT)
    words[words.index(option) + 1] = value
    return words


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (replaced("--tasks", "figstepp"), "no task 'figstepp'; did you mean figstep?"),
        (replaced("--tasks", "list"), "--tasks list runs nothing"),
        (replaced("--model", "shiftdc_lava"), "--model shiftdc_lava is unknown; did you mean shiftdc_llava?"),
        (replaced("--model_args", "pretrained=toyy,defense=none"), "did you mean toy?"),
        (replaced("--model_args", "pretrained=/no/such,defense=none"), "there is no such folder"),
        (replaced("--model_args", "pretrained=no/such,defense=none"), "HF_HUB_OFFLINE is set"),
        (replaced("--model_args", "pretrained=toy,defence=none"), "did you mean defense?"),
        (replaced("--model_args", "pretrained=toy,defense=nonee"), "did you mean none?"),
        (replaced("--model_args", "pretrained=toy,defense=none,seed=3"), "seed=3 has no effect with greedy"),
        (replaced("--model_args", "pretrained=toy,defense=none,batch_size=0"), "batch_size"),
        (
            replaced("--model_args", "pretrained=toy,defense=none,revision=v1"),
            "has no effect on the bundled model",
        ),
        (replaced("--model_args", "pretrained=toy,defense=none,revision=https://h/x"), "revision"),
        (
            replaced("--model_args", "pretrained=toy,defense=none,journal=x"),
            "journal= is set by shiftdc-eval run",
        ),
        (replaced("--model_args", "pretrained=toy,defense=none,contrast=/no/such"), "there is no such file"),
        (replaced("--model_args", 'pretrained=toy,defense=none,system_prompt="a, b'), "is not closed"),
        ([*RIGHT, "--max_batch_size", "4"], "max_batch_size=4 has no effect with batch_size=1"),
        (
            [
                *replaced("--model_args", "pretrained=toy,defense=none,languages=de"),
                *("--judge", "keyword_robust"),
            ],
            "languages=de has no effect on judges that are chosen",
        ),
        ([*RIGHT, "--include_path", "/no/such"], "--include_path: no folder /no/such"),
        ([*RIGHT, "--config", "x.yaml"], "--config is not taken here"),
        ([*RIGHT, "--output", "x"], "unknown option --output; did you mean --output_path?"),
        ([*RIGHT, "--use_cache", "x"], "--use_cache is refused"),
        ([*RIGHT, "--judge", "keyword_robst"], "nearest: keyword_robust"),
        ([*RIGHT, "--judge", "llm_figstep:model=m"], "no API key"),
        ([*RIGHT, "--judge", "keyword_gcg", "--judge", "keyword_gcg"], "two judges are called 'keyword_gcg'"),
        ([*RIGHT, "--judge", "local_harmbench:model=/no/such"], "judge model '/no/such'"),
        ([*RIGHT, "--output_path", __file__], "is a file, not a folder"),
        (RIGHT[2:], "--model is missing"),
        (RIGHT[:4], "--tasks is missing"),
    ],
)
def test_wrong_input_is_one_line_and_starts_nothing(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = said(capsys, *words)
    assert len(found) == 1, found
    assert line in found[0]


def test_everything_that_is_wrong_is_said_at_once_in_three_seconds_without_torch(tmp_path: Path) -> None:
    words = ["--model", "shiftdc_vlm", "--model_args", "pretrained=/no/such,defence=shiftdc,bath_size=2"]
    words += [
        "--tasks",
        "figstep,mosbench",
        "--judge",
        "keyword_robst",
        "--seed",
        "4",
        "--gen_kwargs",
        "top_p=0.5",
    ]
    code = (
        "import sys, time; begun = time.perf_counter(); from shiftdc_eval.cli import main;"
        f"status = main(['run', *{words!r}]); seconds = time.perf_counter() - begun;"
        "print(status, 'torch' in sys.modules, 'lmms_eval.api' in sys.modules, seconds)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"SHIFTDC_DATA": "/no/data"},
        check=True,
    )
    status, torch, lmms, seconds = done.stdout.split()
    assert (status, torch, lmms) == ("2", "False", "False")
    assert float(seconds) < 3
    for wrong in ("/no/such", "defence", "mosbench", "keyword_robst", "--seed", "top_p=0.5", "/no/data"):
        assert wrong in done.stderr
    assert len(done.stderr.splitlines()) == 7


LIGHT = [
    ["--help"], ["rnu"], ["defenses"], ["defenses", "shitdc"], ["judges"], ["judges", "keyword_robst"], ["tasks"],
    ["tasks", "figstp"], ["board", "check", "/no/such"], ["board", "bild"], ["grid", "list"], ["grid", "run", "tooy"],
    ["demo", "--grid", "/no/such"], ["doctor", "toi"], ["analyse", "toi", "-o", "/no/such"], ["sweep", "run", "alfa"],
    ["judge", "/no/such", "--judge", "keyword_robst"], ["view", "a/b/no/such"], ["explain", "/no/such"],
    ["convert", "lava"], ["run", "--modl", "x"], ["run", "--model", "shiftdc_lava", "--tasks", "figstep"],
]  # fmt: skip
"""Lists, and words that are misspelt."""


def test_lists_and_misspelt_words_need_no_torch() -> None:
    code = (
        "import sys, time; from shiftdc_eval.cli import main\n"
        f"for words in {LIGHT!r}:\n"
        "    begun = time.process_time(); status = main(words)\n"
        "    heavy = [one for one in ('torch', 'transformers', 'datasets', 'lmms_eval.api') if one in sys.modules]\n"
        "    print(status, time.process_time() - begun, *heavy, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    marks = [line.split() for line in done.stderr.splitlines() if line[:2] in ("0 ", "1 ", "2 ")]
    assert [mark[0] for mark in marks] == [
        "0" if words in (["--help"], ["defenses"], ["judges"], ["tasks"], ["grid", "list"]) else "2"
        for words in LIGHT
    ], done.stderr
    assert all(len(mark) == 2 and float(mark[1]) < 3 for mark in marks), done.stderr


def test_settings_and_files_of_a_defense_are_checked_with_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contrast = tmp_path / "contrast.jsonl"
    contrast.write_text(json.dumps({"unsafe": "a"}) + "\n")
    wrong = f"pretrained=toy,defense=shiftdc,alpha=strong,contrast={contrast},direction={contrast}"
    found = said(capsys, *replaced("--model_args", wrong), "--seed", "4")
    assert len(found) == 4
    for part in ("--seed", "alpha=strong", "contrast.jsonl line 1", "contrast.jsonl"):
        assert any(part in line for line in found)


def test_a_secret_in_a_command_is_refused_without_repeating_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_TOKEN", "it's\"canary")
    prompt = '"it\'s""canary, please"'
    found = said(capsys, *replaced("--model_args", f"pretrained=toy,defense=none,system_prompt={prompt}"))
    assert "MY_TOKEN" in " ".join(found)
    assert "canary" not in " ".join(found)


def test_a_model_folder_without_config_or_weights_is_no_model(tmp_path: Path) -> None:
    model = ModelArguments(pretrained=str(tmp_path))
    assert "no config.json" in " ".join(preflight.model_problems(model))
    (tmp_path / "config.json").write_text("{}")
    assert "no weights" in " ".join(preflight.model_problems(model))
    (tmp_path / "model.safetensors").write_text("")
    assert list(preflight.model_problems(model)) == []
    named = model.model_copy(update={"revision": "v1"})
    assert "revision=v1 has no effect on a local folder" in " ".join(preflight.model_problems(named))


def test_integers_without_quantisation_settings_are_no_weights(tiny_llava: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny_llava / "config.json").read_text())
    assert list(preflight.model_problems(ModelSpec(str(tiny_llava)))) == []
    for kind in (np.int8, np.uint8):
        save_file(
            {"a.weight": np.ones(3, kind), "b.bias": np.ones(3, np.float32)}, tmp_path / "m.safetensors"
        )
        (line,) = preflight.model_problems(ModelSpec(str(tmp_path)))
        assert "1 weights are integers (a.weight" in line
    quantised = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    (tmp_path / "config.json").write_text(json.dumps(quantised))
    assert list(preflight.model_problems(ModelSpec(str(tmp_path)))) == []


def test_a_cache_that_is_a_file_is_told_before_loading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SHIFTDC_CACHE", str(tmp_path / "file"))
    (line,) = said(capsys, *RIGHT)
    assert "SHIFTDC_CACHE: " in line
    assert "is a file, not a folder" in line
    assert main(["analyse", "toy", "--tasks", "toy_figstep", "--layers", "99-120"]) == 2
    lines = capsys.readouterr().err
    assert "SHIFTDC_CACHE: " in lines
    assert "layers=99-120 does not fit a model with decoder layers 0 to 7" in lines


@pytest.mark.parametrize("words", [["defenses"], ["judges"], ["judge", "--help"]])
def test_tables_and_help_fit_eighty_columns(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 20
    assert max(map(len, lines)) <= 80


def test_tasks_of_lmms_eval_and_of_the_user_are_known(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("task: my_own_task\n")
    names = ["figstep", "shiftdc_safety", "mme", "toy_*", "my_own_task", str(tmp_path)]
    assert list(preflight.task_problems(names, [str(tmp_path)])) == []
    other = tmp_path / "other"
    other.mkdir()
    (other / "other.yaml").write_text("task: figstep\n")
    assert list(preflight.task_problems(["mme"], [str(other)])) == []
    assert "the name figstep is taken" in " ".join(preflight.task_problems(["figstep"], [str(other)]))
    assert preflight.all_ours(["figstep", "shiftdc_safety", "toy_*"])
    assert not preflight.all_ours(["figstep", "mme"])
    (line,) = preflight.task_problems(["my_own_task"])
    assert "no task 'my_own_task'" in line
