"""The verb: from a model to a page."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from synthetic import Planted, write

from shiftdc_eval.analysis import page, plots
from shiftdc_eval.analysis.cli import MINIMUM, configure
from shiftdc_eval.analysis.items import collect, twins
from shiftdc_eval.analysis.probes import MINIMUM as OF_A_PROBE
from shiftdc_eval.analysis.report import analyse
from shiftdc_eval.analysis.sweeps.cli import shipped
from shiftdc_eval.cli import main
from shiftdc_eval.core.errors import ConfigError, DataError
from shiftdc_eval.defenses.contrast import load_contrast
from shiftdc_eval.tasks.catalogue import TASKS
from shiftdc_eval.tasks.toy.task import ToyBenign, ToyRequests

KINDS = {"toy_figstep": "figstep", "toy_mm_safetybench_typo": "typo"}


def toy_task(name: str) -> Any:
    """A toy task without lmms-eval's index."""
    if name == "toy_benign":
        return ToyBenign({"task": name, "dataset_kwargs": {"n": 48, "seed": 0}})
    return ToyRequests({"task": name, "dataset_kwargs": {"image_type": KINDS[name], "n": 24, "seed": 0}})


def test_harmful_items_and_twins_of_the_same_kinds_come_in_equal_number() -> None:
    items, notes = collect(list(KINDS), [], [], load_contrast(None), limit=10, load=toy_task)
    roles = [item.record.role for item in items]
    assert roles.count("harmful") == roles.count("benign") == 10
    for role in ("harmful", "benign"):
        kinds = [item.record.scenario for item in items if item.record.role == role]
        assert sorted(kinds) == 5 * ["figstep"] + 5 * ["typo"]
    assert notes == ["24 benign items of other scenarios left out"]


def test_one_request_under_two_image_types_is_one_question() -> None:
    items, _ = collect(list(KINDS), [], [], load_contrast(None), limit=None, load=toy_task)
    by_request: dict[str, set[str]] = {}
    for item in items:
        by_request.setdefault(item.request, set()).add(item.record.question)
    assert all(len(questions) == 1 for questions in by_request.values())
    assert len(by_request) < len(items)


def test_items_of_the_contrast_set_are_left_out(tmp_path: Path) -> None:
    first = toy_task("toy_figstep").source.examples[0].request
    lines = [{"unsafe": f"bad {at}", "safe": f"good {at}"} for at in range(9)]
    lines[0]["unsafe"] = first.upper()
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    items, notes = collect(["toy_figstep"], [], [], load_contrast(path), limit=None, load=toy_task)
    assert all(item.request != first for item in items)
    assert any("calibration items left out" in note for note in notes)


def test_a_task_without_a_known_twin_asks_for_one() -> None:
    with pytest.raises(
        ConfigError, match="no benign twin is known for mm_safetybench_sd; name one with --benign"
    ):
        twins(["mm_safetybench_sd"])


def test_items_without_an_image_are_refused() -> None:
    task = toy_task("toy_figstep")
    bare = [one.__class__(**{**one.__dict__, "image": None}) for one in task.source.examples]
    task.source = task.source.__class__(bare, "made", "0")
    with pytest.raises(DataError, match="has no image; the analysis compares requests with images"):
        collect(["toy_figstep"], [], [], load_contrast(None), limit=None, load=lambda name: task)


def test_the_same_recording_gives_the_same_bytes_and_a_page_without_scripts(tmp_path: Path) -> None:
    write(tmp_path / "r", Planted(questions=40), model="<script>alert(1)</script>", model_note="\x07a & b")
    made = []
    for name in ("one", "two"):
        report = analyse(tmp_path / "r")
        pictures = plots.write_all(report, tmp_path / name)
        text = page.render(report, pictures)
        made.append(
            (json.dumps(report), text, [(tmp_path / name / file).read_bytes() for file, _ in pictures])
        )
    assert made[0] == made[1]
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "\x07" not in text
    assert "a &amp; b" in text
    assert "compared as two\ngroups, not pair by pair" in text
    assert {"pca.svg", "tsne.svg", "shift.svg", "probe.svg", "visual.svg"} <= {file for file, _ in pictures}
    for file, _ in pictures:
        assert ElementTree.parse(tmp_path / "two" / file).getroot().tag.endswith("}svg")


DOCS = Path(__file__).parents[2] / "docs"


def test_the_commands_that_make_the_papers_figures_and_tables_exist() -> None:
    text = (DOCS / "analysis.md").read_text(encoding="utf-8").split("## The paper's figures and tables")[1]
    rows = [line.split("|")[2] for line in text.split("\n## ")[0].splitlines() if line.startswith("| ")][1:]
    named = {
        verb: [row for row in rows if row.startswith(f" `{verb}")] for verb in ("grid", "sweep", "analyse")
    }
    tasks = re.findall(r"`(\w+)`", " ".join(named["grid"]))
    assert {task if task in TASKS else f"mm_safetybench{task}" for task in tasks} <= set(TASKS)
    sweeps = re.findall(r"`(?:sweep run )?(\w+)`", " ".join(named["sweep"]))
    assert set(sweeps) == set(shipped())
    parser = argparse.ArgumentParser()
    configure(parser)
    options = set(re.findall(r"--\w+", " ".join(named["analyse"])))
    assert options
    assert options <= {option for action in parser._actions for option in action.option_strings}


@pytest.mark.parametrize("picture", sorted(DOCS.glob("*.svg")), ids=lambda path: path.name)
def test_the_pictures_of_the_docs_are_well_formed(picture: Path) -> None:
    assert ElementTree.parse(picture).getroot().tag.endswith("}svg")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["toy", "--recorded"], "no recording there"),
        (["toy"], "--tasks is missing"),
        (["toy", "--tasks", "toy_figstep", "--items", "4"], "--items 4: give a number of at least 10"),
        (["toy", "--tasks", "toy_figstpe"], "no task 'toy_figstpe'; did you mean toy_figstep?"),
        (["toy", "--tasks", "toy_figstep", "--judge", "kw"], "unknown judge 'kw'"),
        (["toyy", "--tasks", "toy_figstep"], "did you mean toy?"),
        (["toy", "--tasks", "toy_figstep", "--contrast", "/no/such"], "/no/such"),
        (["toy", "--tasks", "toy_figstep", "--direction", "/no/such"], "there is no such file"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyse", *arguments, "-o", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_everything_wrong_is_said_at_once_and_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shiftdc_eval.backbones.loading.load_parts", lambda spec: pytest.fail("was loaded"))
    wrong = ["/no/such", "--tasks", "figstpe", "--items", "3", "--judge", "kw", "--contrast", "/no/set"]
    assert main(["analyse", *wrong, "-o", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    for said in ("/no/such", "figstpe", "--items 3", "'kw'", "/no/set"):
        assert sum(said in line for line in lines) == 1, said


def test_a_recording_of_another_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "recording", Planted(questions=12))
    assert main(["analyse", "toy", "--recorded", "-o", str(tmp_path)]) == 2
    assert "holds a recording of made, not of toy" in capsys.readouterr().err
    assert main(["analyse", "made", "--recorded", "-o", str(tmp_path)]) == 0


def test_as_many_items_are_asked_for_as_a_probe_needs() -> None:
    assert MINIMUM == OF_A_PROBE


@pytest.mark.slow
@pytest.mark.usefixtures("few_pairs")
def test_the_toy_model_is_recorded_and_analysed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shiftdc_eval.analysis.items.load_task", toy_task)
    monkeypatch.setattr(collect, "__kwdefaults__", {"load": toy_task})
    arguments = ["--tasks", ",".join(KINDS), "--items", "12", "--no-answers", "--variants", "online"]
    command = ["analyse", "toy", *arguments, "--caption-max-new-tokens", "8", "-o", str(tmp_path)]
    assert main(command) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["items"]["harmful"] == report["items"]["benign"] == 12
    assert len(report["curves"]["safety_probe"]["text_caption"]["image"]["accuracy"]["value"]) == 8
    assert report["findings"]
    assert (tmp_path / "index.html").is_file()
    before = {path: path.read_bytes() for path in (tmp_path / "recording").iterdir()}
    pairs = [json.dumps({"unsafe": f"bad thing {at}", "safe": f"good thing {at}"}) for at in range(20)]
    (tmp_path / "set.jsonl").write_text("\n".join(pairs))
    assert main([*command, "--contrast", str(tmp_path / "set.jsonl")]) == 2
    assert "differs in direction_sha256" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in (tmp_path / "recording").iterdir()}
