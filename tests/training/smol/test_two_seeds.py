"""The script of two seeds names what is missing before anything starts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import training.smol

SCRIPT = Path(training.smol.__file__).with_name("two_seeds.sh")


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Path]:
    """Everything that the script asks for but the interpreter."""
    found = {name: tmp_path / name for name in ("fonts", "base.gguf", "data", "words", "out")}
    for name in ("fonts/FreeMonoBold.ttf", "fonts/LiberationSans-Regular.ttf", "base.gguf", "words"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "data/contrast").mkdir(parents=True)
    (tmp_path / "data/contrast/harmful_train.json").touch()
    return found


def _run(given: dict[str, Path], *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("the script needs bash, which is not on this machine")
    paths = [str(given[name]) for name in ("fonts", "base.gguf", "data", "out")]
    command = [bash, str(SCRIPT), "--words", str(given["words"]), *options, *paths]
    # `false` in the place of Python: what comes after the checks fails at once
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": "false"} | environment
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    "name", ["fonts/FreeMonoBold.ttf", "base.gguf", "words", "data/contrast/harmful_train.json"]
)
def test_a_file_that_is_missing_is_named(given: dict[str, Path], name: str) -> None:
    path = given["out"].with_name(name) if "/" not in name else given["out"].parent / name
    path.unlink()
    done = _run(given)
    assert (done.returncode, done.stderr) == (2, f"{path} is missing\n")


def test_with_all_files_there_the_interpreter_is_asked_for_its_packages(given: dict[str, Path]) -> None:
    done = _run(given)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("options", [("--minutes", "soon"), ("--seconds", "3")])
def test_an_option_that_cannot_be_used_shows_the_usage(
    given: dict[str, Path], options: tuple[str, ...]
) -> None:
    done = _run(given, *options)
    assert done.returncode == 2
    assert "training/smol/two_seeds.sh [options] FONTS BASE DATA OUT" in done.stderr
    assert "after its last condition." in done.stderr
    assert "pipefail" not in done.stderr


@pytest.mark.parametrize(("seed", "workers"), [((), "7"), (("--seed", "1"), "15")])
def test_threads_of_torch_do_not_decide_how_many_processes_draw(
    given: dict[str, Path], seed: tuple[str, ...], workers: str
) -> None:
    tools = given["out"].with_name("bin")
    tools.mkdir()
    for name, script in {
        "nproc": "echo ${OMP_NUM_THREADS:-16}",  # as coreutils' does, on 16 cores
        "python": f'echo "$@" >> {tools}/asked; [ "$1" = -c ]',
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    _run(given, *seed, "--device", "cpu", PATH=f"{tools}:/usr/bin:/bin", PYTHON="python", OMP_NUM_THREADS="1")
    trained = [line.split() for line in (tools / "asked").read_text().splitlines() if "smol.train" in line]
    assert len(trained) == 2 - bool(seed)
    assert {words[words.index("--workers") + 1] for words in trained} == {workers}
