"""What is installed, what is imported, and how fast the command answers."""

import configparser
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from made import Made

import shiftdc_eval
from shiftdc_eval import cli
from shiftdc_eval.core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "torch",
    "transformers",
    "lmms_eval",
    "datasets",
    "openai",
    "sklearn",
    "matplotlib",
    "scipy",
    "pandas",
)


@pytest.mark.slow
def test_the_wheel_holds_the_whole_tree_and_nothing_beside_the_package(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy: a build folder left in the checkout would add stale files
    shutil.copytree(
        ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info")
    )
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0].split("-")[0] for name in names} == {"shiftdc_eval"}
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "shiftdc_eval"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    missing = sorted(path for path in set(tracked) - names if (ROOT / path).exists())
    assert not missing, f"in the tree but not in the wheel: {missing[:5]}"


def test_nothing_called_tasks_or_judges_is_installed() -> None:
    code = "import importlib.util as u, json; print(json.dumps([u.find_spec(n) is None for n in ('tasks', 'judges')]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert json.loads(done.stdout) == [True, True]


ALL_HELP = """
import argparse, importlib
from shiftdc_eval.cli import VERBS
for module, _ in VERBS.values():
    importlib.import_module(module).configure(argparse.ArgumentParser())
"""


def imported_by(statement: str) -> set[str]:
    """Top-level packages that a fresh process has imported after a statement."""
    code = (
        f"import sys, json\n{statement}\nprint(json.dumps(sorted({{n.split('.')[0] for n in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import shiftdc_eval.cli", HEAVY),
        (
            "import shiftdc_eval.plugin.manifests; shiftdc_eval.plugin.manifests",
            ("torch", "transformers", "datasets"),
        ),
        ("import shiftdc_eval.judges.registry", ("torch", "transformers", "lmms_eval", "openai")),
        ("import shiftdc_eval.steering", ("transformers", "lmms_eval", "datasets")),
        ("import shiftdc_eval.board.cli", ("torch", "transformers", "lmms_eval")),
        ("import shiftdc_eval.plugin.run", HEAVY[2:]),
        (
            "from shiftdc_eval.defenses import DEFENSES; list(DEFENSES)",
            ("torch", "transformers", "lmms_eval"),
        ),
        (ALL_HELP, ("torch", "transformers", "lmms_eval", "datasets", "matplotlib")),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(statement: str, forbidden: tuple[str, ...]) -> None:
    assert not imported_by(statement) & set(forbidden)


MODULES = {"lmms-eval": "lmms_eval", "scikit-learn": "sklearn"}
LIGHT = """
import sys
sys.modules.update(dict.fromkeys({absent!r}))
from shiftdc_eval.cli import main
sys.exit(max(main(words.split()) for words in {commands!r}))
"""


def without(absent: list[str], *commands: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Commands in a process that cannot import these modules."""
    code = LIGHT.format(absent=absent, commands=commands)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_every_module_that_an_extra_brings_is_known_by_it() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    brought = {}
    for extra in ("board", "run"):
        for line in setup["options.extras_require"][extra].split():
            name = re.split(r"[\[<>=]", line)[0]
            brought[MODULES.get(name, name)] = extra
    assert brought.pop("shiftdc-eval") == "run"
    assert {"numpy": "board"} | brought == cli.EXTRAS


def test_reading_judging_and_publishing_need_nothing_of_the_extra_run(tmp_path: Path) -> None:
    Made().write(tmp_path / "results")
    done = without(
        [name for name, extra in cli.EXTRAS.items() if extra == "run"],
        "judge results --judge keyword_multilingual",
        "board build results --out board",
        "board check board",
        "view results -o view.html",
        "tasks",
        "defenses",
        "judges",
        cwd=tmp_path,
    )
    assert (done.returncode, "all is well" in done.stdout) == (0, True), done.stderr
    assert "keyword_multilingual" in (tmp_path / "board" / "index.json").read_text()
    assert (tmp_path / "view.html").exists()


@pytest.mark.parametrize(
    ("absent", "command", "extra"),
    [
        ("torch", "defenses shiftdc", "run"),
        ("transformers", "doctor toy", "run"),
        ("scipy", "board build results", "board"),
    ],
)
def test_what_needs_an_extra_says_so_in_one_line(
    absent: str, command: str, extra: str, tmp_path: Path
) -> None:
    done = without([absent], command, cwd=tmp_path)
    verb = command.split()[0]
    assert (done.returncode, done.stderr) == (
        2,
        f"shiftdc-eval {verb}: {absent} is not installed: pip install 'shiftdc-eval[{extra}]' brings it\n",
    )


def test_a_run_without_lmms_eval_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["run", "--tasks", "figstep"]) == 2
    assert (
        capsys.readouterr().err
        == "shiftdc-eval run: lmms_eval is not installed: pip install 'shiftdc-eval[run]' brings it\n"
    )


def test_help_answers_in_under_half_a_second() -> None:
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "shiftdc_eval.cli", "--help"], capture_output=True, text=True, check=True
        )
        times.append(time.perf_counter() - begun)
    assert "direction" in done.stdout
    assert min(times) < 0.5


@pytest.mark.parametrize(
    "arguments", [["--version-of-nothing"], ["nosuchverb"], ["direction", "fit", "--nonsense"]]
)
def test_a_wrong_command_ends_with_usage_not_a_traceback(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shiftdc_eval.cli", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "known"),
    [
        (["bord"], "board"),
        (["board", "biuld"], "build"),
        (["grid", "run", "g.yaml", "--dryrun"], "--dry-run"),
    ],
)
def test_a_misspelt_verb_action_or_option_names_the_nearest(
    arguments: list[str], known: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert f"did you mean {known}?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "more"), [("run", "the same command goes on where it stopped"), ("convert", "")]
)
def test_ctrl_c_says_whether_the_same_command_goes_on(
    verb: str, more: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(args: object) -> int:
        raise KeyboardInterrupt

    module = importlib.import_module(cli.VERBS[verb][0])
    monkeypatch.setattr(module, "configure", lambda parser: None)
    monkeypatch.setattr(module, "main", stopped)
    assert cli.main([verb]) == 130
    assert capsys.readouterr().err == f"shiftdc-eval {verb}: stopped{'; ' if more else ''}{more}\n"


def test_an_error_shows_no_secret_and_steers_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(args: object) -> int:
        raise ConfigError("\x1b[2Jcanary4711\nsecond")

    monkeypatch.setenv("MY_TOKEN", "canary4711")
    monkeypatch.setattr(importlib.import_module(cli.VERBS["view"][0]), "configure", lambda parser: None)
    monkeypatch.setattr(importlib.import_module(cli.VERBS["view"][0]), "main", wrong)
    assert cli.main(["view"]) == 2
    said = capsys.readouterr().err
    assert said == "shiftdc-eval view: \\x1b[2J***\nshiftdc-eval view: second\n"


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"shiftdc-eval {shiftdc_eval.__version__}\n"


def unread(command: list[str], buffered: bool) -> subprocess.CompletedProcess[str]:
    """Run a command whose output nobody reads."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, env=environment
        )
    finally:
        os.close(writer)


@pytest.mark.parametrize(
    ("arguments", "buffered"),
    [
        (["--help"], True),
        (["tasks"], True),
        (["tasks"], False),
        (["sweep", "list"], True),
        (["sweep", "list"], False),
        (["sweep", "show", "layers"], True),
    ],
)
def test_a_command_whose_reader_has_gone_ends_without_a_word(arguments: list[str], buffered: bool) -> None:
    done = unread([sys.executable, "-m", "shiftdc_eval.cli", *arguments], buffered)
    # argparse passes over what it could not print
    assert (done.returncode != 0) or "--help" in arguments
    assert done.stderr == ""


BROKEN = """
import os, sys
from shiftdc_eval import cli
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.tasks import cli as table
def main(args):
    print("something")
    {statement}
table.main = main
sys.exit(cli.main(["tasks"]))
"""


@pytest.mark.parametrize(
    ("statement", "status", "said"),
    [
        ("raise ConfigError('no such thing')", 2, "shiftdc-eval tasks: no such thing"),
        ("return 1", 1, ""),
    ],
)
def test_what_fails_says_so_even_if_nobody_reads_the_output(statement: str, status: int, said: str) -> None:
    done = unread([sys.executable, "-c", BROKEN.format(statement=statement)], buffered=True)
    assert done.returncode == status
    assert done.stderr.strip() == said


def test_a_command_without_an_output_works() -> None:
    done = subprocess.run(
        ["sh", "-c", f"'{sys.executable}' -m shiftdc_eval.cli tasks >&-"],
        stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_every_verb_leads_to_a_module_that_exists() -> None:
    import importlib

    from shiftdc_eval.cli import VERBS

    for verb, (module, _) in VERBS.items():
        loaded = importlib.import_module(module)
        assert callable(loaded.configure), verb
        assert callable(loaded.main), verb
