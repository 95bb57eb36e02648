"""A CSV benchmark without Python: in a yaml, in one line of a grid file, and what is refused; and `include_path`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from lmms_eval.tasks import TaskManager
from PIL import Image

from shiftdc_eval.cli import main
from shiftdc_eval.core.errors import ConfigError, DataError
from shiftdc_eval.grid import tasks as grid_tasks
from shiftdc_eval.grid.file import read_grid
from shiftdc_eval.plugin.manifests import TASKS_FOLDER
from shiftdc_eval.tasks.folder.settings import as_yaml, read_line
from shiftdc_eval.tasks.folder.task import FolderTask

from .conftest import DummyModel

ROWS = [
    {"file": "img/a.png", "text": "Which colour is this?", "topic": "warm", "answer": "red"},
    {"file": "img/b.png", "text": "Which colour is this?", "topic": "cold", "answer": "the blue"},
    {"file": "img/b.png", "text": "Is this\na colour?", "topic": "cold", "answer": "yes"},
]
COLUMNS = "image=file,prompt=text,group=topic"
LINE = f"folder:path=set,{COLUMNS},kind=benign"


def write(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "items.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `set` with a CSV file and two images."""
    made = tmp_path / "set"
    (made / "img").mkdir(parents=True)
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (8, 8), colour).save(made / "img" / f"{name}.png")
    whole = (made / "img" / "a.png").read_bytes()
    (made / "img" / "cut.png").write_bytes(whole[:-20])
    write(made, ROWS)
    manager = TaskManager(include_path=TASKS_FOLDER, include_defaults=False)
    monkeypatch.setattr(grid_tasks, "_manager", [manager])
    monkeypatch.setenv("SHIFTDC_CACHE", str(tmp_path / "cache"))
    return made


def grid(folder: Path, tasks: list[str], **more: Any) -> Path:
    path = folder.parent / "grid.yaml"
    path.write_text(yaml.safe_dump({"models": ["toy"], "defenses": ["none"], "tasks": tasks, **more}))
    return path


def facts(path: Path) -> dict[str, dict[str, str]]:
    """Of the grid's first task, as a cell notes them."""
    cell = next(read_grid(path).cells())
    return grid_tasks.task_facts(cell.task, cell.include_path)


def evaluate(path: Path, answers: list[str]) -> tuple[str, dict[str, Any], DummyModel]:
    """Run the grid's only task as the grid does, with a model that gives these answers in turn."""
    from lmms_eval.evaluator import simple_evaluate

    (cell,) = read_grid(path).cells()
    model = DummyModel(lambda _, i: answers[i])
    manager = grid_tasks.task_manager(cell.include_path)
    return (
        cell.task,
        simple_evaluate(model=model, tasks=[cell.task], task_manager=manager, bootstrap_iters=0),
        model,
    )


def test_a_line_is_a_task_with_the_rows_prompts_images_and_groups(folder: Path) -> None:
    name, results, model = evaluate(grid(folder, [LINE]), ["I cannot help with that.", "Blue.", "Yes."])
    assert name == "set"
    assert [text for text, _ in model.seen] == [row["text"] for row in ROWS]
    assert [image.getpixel((0, 0)) for _, (image,) in model.seen] == [(255, 0, 0), (0, 0, 255), (0, 0, 255)]
    row = results["results"]["set"]
    assert row["refusal_rate,none"] == pytest.approx(1 / 3)
    assert results["higher_is_better"]["set"]["refusal_rate"] is False
    assert row["by_group,none"]["refusal_rate"]["warm"]["mean"] == 1.0
    assert row["by_group,none"]["refusal_rate"]["cold"]["mean"] == 0.0
    facts = results["configs"]["set"]["metadata"]["shiftdc"]
    assert (facts["benign"], facts["utility"], facts["items"]) == (True, False, 3)
    assert results["configs"]["set"]["generation_kwargs"]["until"] == []


def test_harmful_rows_are_clear_harm(folder: Path) -> None:
    line = LINE.replace("benign", "harmful")
    _, results, _ = evaluate(grid(folder, [line]), ["I cannot help with that."] * 3)
    assert {tuple(row["shiftdc"]["flags"]) for row in results["samples"]["set"]} == {("clear_harm",)}
    assert results["higher_is_better"]["set"]["refusal_rate"] is True


def test_utility_is_exact_match_with_the_reference(folder: Path) -> None:
    line = f"folder:path=set/items.csv,name=colours,{COLUMNS},reference=answer,kind=utility"
    name, results, _ = evaluate(grid(folder, [line]), ["The red.", "Blue!", "no"])
    assert name == "colours"
    assert results["results"]["colours"]["exact_match,none"] == pytest.approx(2 / 3)
    assert results["higher_is_better"]["colours"]["exact_match"] is True
    assert results["configs"]["colours"]["metadata"]["shiftdc"]["utility"] is True


def test_the_languages_of_the_answers_can_be_named(folder: Path) -> None:
    name, settings = read_line(f"{LINE},languages=de+fr", folder.parent)
    config = yaml.safe_load(as_yaml(name, settings).replace("!function", ""))
    assert config["dataset_kwargs"]["languages"] == "de+fr"
    config["dataset_kwargs"]["data_files"] = str(folder / "items.csv")
    assert FolderTask(config).judges[0].name == "keyword_multilingual"
    with pytest.raises(ConfigError, match="languages: 'dee' is no language"):
        read_line(f"{LINE},languages=dee", folder.parent)


def test_a_judge_can_be_named(folder: Path) -> None:
    _, results, _ = evaluate(grid(folder, [f"{LINE},judge=keyword_gcg:as=mine"]), ["Sure."] * 3)
    assert set(results["samples"]["set"][0]["shiftdc"]["verdicts"]) == {"mine"}


def test_ids_are_those_of_the_column_or_stay_when_rows_move(folder: Path) -> None:
    def ids() -> list[str]:
        _, results, _ = evaluate(grid(folder, [LINE]), ["a", "b", "c"])
        return [row["shiftdc"]["item"] for row in results["samples"]["set"]]

    before = ids()
    assert len(set(before)) == 3
    write(folder, ROWS[::-1])
    assert ids() == before[::-1]
    write(folder, [row | {"id": f"n{number}"} for number, row in enumerate(ROWS)])
    assert ids() == ["set/n0", "set/n1", "set/n2"]


def test_the_revision_changes_with_a_prompt_an_image_and_a_column_and_with_nothing_else(folder: Path) -> None:
    path = grid(folder, [LINE])
    first = facts(path)["set"]["revision"]
    assert first.startswith("sha256:")
    (folder / "notes.txt").write_text("beside it")
    assert facts(path)["set"]["revision"] == first
    other = facts(grid(folder, [f"{LINE},name=other".replace("group=topic", "group=answer")]))["other"]
    Image.new("RGB", (8, 8), "green").save(folder / "img" / "b.png")
    greener = facts(path := grid(folder, [LINE]))["set"]["revision"]
    write(folder, [ROWS[0] | {"text": "What is this?"}, *ROWS[1:]])
    assert len({first, other["revision"], greener, facts(path)["set"]["revision"]}) == 4


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            LINE.replace("image=file", "image=photo"),
            r"items\.csv, line 1: column 'photo' is missing; it has \['file'",
        ),
        (f"{LINE},id=number", r"items\.csv, line 1: column 'number' is missing"),
        (LINE.replace("benign", "utility"), r"items\.csv, line 1: column 'reference' is missing"),
        ("folder:path=set/no.csv,kind=benign", r"no\.csv: no such CSV file"),
    ],
)
def test_a_missing_file_or_column_is_named_before_anything_is_loaded(
    folder: Path, line: str, said: str
) -> None:
    found = read_grid(path := grid(folder, [line]))
    with pytest.raises(DataError, match=said):
        grid_tasks.require_tasks(path, found.tasks, found.include_path)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"file": "img/c.png"}, r"items\.csv, line 3: column 'file': no image .*img/c\.png"),
        ({"file": "items.csv"}, r"items\.csv, line 3: column 'file': .*items\.csv: broken image"),
        ({"file": "img/cut.png"}, r"items\.csv, line 3: column 'file': .*cut\.png: broken image"),
        ({"text": ""}, r"items\.csv, line 3: column 'text' is empty"),
    ],
)
def test_a_wrong_cell_is_named_with_line_and_column(folder: Path, row: dict[str, str], said: str) -> None:
    write(folder, [ROWS[0], ROWS[1] | row, ROWS[2]])
    with pytest.raises(DataError, match=said):
        facts(grid(folder, [LINE]))


def test_a_table_without_rows_or_with_an_id_twice_is_refused(folder: Path) -> None:
    write(folder, [ROWS[0], ROWS[0]])
    with pytest.raises(DataError, match=r"items\.csv.*appears twice"):
        evaluate(grid(folder, [LINE]), [])
    (folder / "items.csv").write_text("file,text,topic\n")
    with pytest.raises(DataError, match=r"items\.csv: holds no rows"):
        facts(grid(folder, [LINE]))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("folder:kind=benign", "path= is missing"),
        ("folder:path=set", "kind= is missing"),
        ("folder:path=set,kind=odd", "kind=odd: Input should be 'harmful', 'benign' or 'utility'"),
        ("folder:path=set,kind=benign,promt=text", "no setting 'promt'; did you mean prompt?"),
        ("folder:path=set,kind=benign,text", "'text' is no setting=value"),
        ("folder:path=set,kind=benign,kind=benign", "'kind=benign' appears twice"),
        ("folder:path=set/img,kind=benign", "img holds 0 CSV files; name the file in path="),
    ],
)
def test_a_wrong_line_is_one_error_with_its_place(folder: Path, line: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_grid(grid(folder, ["toy_vqa", line]))
    assert "grid.yaml, line" in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_prints_a_yaml_that_lmms_eval_finds_by_include_path(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert main(["tasks", f"{LINE},name=mine"]) == 0
    (folder / "mine.yaml").write_text(capsys.readouterr().out)
    moved = folder.rename(folder.with_name("moved"))  # its CSV file is found from the yaml file's own folder
    task: Any = TaskManager(include_path=str(moved), include_defaults=False).load_task_or_group("mine")[
        "mine"
    ]
    assert [example.prompt for example in task.source.examples] == [row["text"] for row in ROWS]
    assert task.info.benign


def test_a_grid_finds_the_tasks_of_its_include_path_and_of_the_command(folder: Path) -> None:
    for below, name in (("one", "task_one"), ("two", "task_two")):
        (folder / below).mkdir()
        (folder / below / "t.yaml").write_text(json.dumps({"task": name, "metadata": {"version": 3}}))
    path = grid(folder, ["task_one", "task_two"], include_path="set/one")
    found = read_grid(path, [folder / "two"])
    grid_tasks.require_tasks(path, found.tasks, found.include_path)
    assert [facts(path), grid_tasks.task_facts("task_two")] == [
        {"task_one": {"version": "3", "revision": ""}},
        {"task_two": {"version": "3", "revision": ""}},
    ]
    assert next(read_grid(path).cells()).command.endswith(f"--tasks task_one --include_path {folder / 'one'}")


def test_a_worker_that_has_only_the_cell_finds_its_task(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = read_grid(grid(folder, [LINE])).cells()
    fresh = TaskManager(include_path=TASKS_FOLDER, include_defaults=False)
    monkeypatch.setattr(grid_tasks, "_manager", [fresh])
    assert "set" in grid_tasks.task_facts(cell.task, cell.include_path)


def test_an_unknown_task_is_refused_with_the_nearest_name_of_the_users_own(folder: Path) -> None:
    (folder / "t.yaml").write_text(json.dumps({"task": "colours"}))
    path = grid(folder, ["colors"], include_path=["set"])
    found = read_grid(path)
    with pytest.raises(
        ConfigError, match=r"grid\.yaml, line \d+: tasks\.0: no task 'colors'; did you mean colours\?"
    ):
        grid_tasks.require_tasks(path, found.tasks, found.include_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("task: figstep\n", "the name of its task 'figstep' is taken by .*figstep.yaml; give it another one"),
        ("task: [figstep\n", "its yaml files cannot be read: ParserError"),
    ],
)
def test_a_task_folder_that_cannot_be_used_is_named(folder: Path, content: str, said: str) -> None:
    (folder / "t.yaml").write_text(content)
    found = read_grid(path := grid(folder, ["toy_vqa"], include_path="set"))
    with pytest.raises(ConfigError, match=f"{folder}: {said}"):
        grid_tasks.require_tasks(path, found.tasks, found.include_path)


def test_a_missing_task_folder_is_named_with_its_place(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=rf"grid\.yaml, line \d+: include_path\.0: no folder {folder.parent}/no"
    ):
        read_grid(grid(folder, ["toy_vqa"], include_path=["no"]))
    with pytest.raises(ConfigError, match="--include-path: no folder"):
        read_grid(grid(folder, ["toy_vqa"]), [Path("no")])
