"""The blank-image twin of a task: the same requests, every image a plain grey one of its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lmms_eval.tasks import TaskManager

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.plugin import preflight
from shiftdc_eval.tasks.catalogue import TASKS, TWINS
from shiftdc_eval.tasks.figstep.task import FigStep
from shiftdc_eval.tasks.preflight import problems
from shiftdc_eval.tasks.xstest.task import XSTest

from .conftest import FakeJudge, any_font


def by_item(results: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    return {row["shiftdc"]["item"]: row["shiftdc"] for row in results["samples"][name]}


def test_a_twin_asks_the_same_with_grey_images_of_the_same_size(
    mini_data: Path, evaluate: Any, judged_by: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHIFTDC_FONT", str(any_font()))
    judged_by(FakeJudge("keyword_fake"))
    results, model = evaluate(["figstep", "figstep_blank"], lambda *_: "no")
    count = len(results["samples"]["figstep"])
    assert count == len(results["samples"]["figstep_blank"])
    shown = {
        name: [(text, images[0]) for text, images in part]
        for name, part in zip(results["samples"], (model.seen[:count], model.seen[count:]), strict=True)
    }
    for (text, image), (same, grey) in zip(shown["figstep"], shown["figstep_blank"], strict=True):
        assert text == same
        assert image.size == grey.size
        assert grey.getcolors() == [(grey.width * grey.height, (128, 128, 128))]
        assert any(low != high for low, high in image.convert("RGB").getextrema())
    whole, blank = by_item(results, "figstep"), by_item(results, "figstep_blank")
    assert whole.keys() == blank.keys()
    for item, row in whole.items():
        assert row["prompt_sha256"] == blank[item]["prompt_sha256"]
        assert row["image_sha256"] != blank[item]["image_sha256"]
        assert row["groups"] == blank[item]["groups"]
    facts = results["configs"]["figstep_blank"]["metadata"]["shiftdc"]
    assert any(note.startswith("blank images: ") for note in facts["notes"])


def test_every_task_with_images_has_a_twin_that_loads(
    mini_data: Path, manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHIFTDC_FONT", str(any_font()))
    for name, info in TASKS.items():
        task: Any = manager.load_task_or_group(name, task_type="chat")[name]
        images = [example for example in task.source.examples if example.image]
        assert info.images == bool(images), name
        if not images:
            assert f"{name}_blank" not in manager.all_tasks
            continue
        twin: Any = manager.load_task_or_group(f"{name}_blank", task_type="chat")[f"{name}_blank"]
        assert (twin.config.task, twin.VERSION, twin.info.benign) == (
            f"{name}_blank",
            task.VERSION,
            info.benign,
        )
        assert [e.id for e in twin.source.examples] == [e.id for e in task.source.examples]
        drawn = next(e for e in twin.source.examples if e.image).image()
        assert (drawn.size, drawn.getcolors()) == (
            images[0].image().size,
            [(drawn.width * drawn.height, (128, 128, 128))],
        )


def test_a_twin_is_known_before_a_run_and_its_data_are_its_tasks(
    mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHIFTDC_FONT", str(any_font()))
    assert not list(preflight.task_problems([*TWINS]))
    assert preflight.all_ours(["figstep_blank"])
    assert not problems(["mossbench_blank"])
    (mini_data / "mossbench" / "benign.json").write_text("[")
    assert problems(["mossbench_blank"]) == problems(["mossbench"])


@pytest.mark.parametrize(
    ("kind", "name", "image"),
    [
        (FigStep, "figstep", "blank"),
        (FigStep, "figstep_blank", "noise"),
        (XSTest, "xstest_safe_blank", "blank"),
    ],
)
def test_results_cannot_be_mixed_with_those_of_the_task(kind: Any, name: str, image: str) -> None:
    with pytest.raises(ConfigError, match="whose name then ends in _blank"):
        kind({"task": name, "dataset_kwargs": {"image": image}})
