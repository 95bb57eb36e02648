"""Every way that an image takes into a task: a damaged one names file and item, a changed one is flagged."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import mini_benchmarks as mini
import pytest
from PIL import Image, ImageFile

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import image_sha256
from shiftdc_eval.judges.verdict import Item
from shiftdc_eval.plugin.requests import samples_from
from shiftdc_eval.tasks.figstep.task import FigStep
from shiftdc_eval.tasks.folder.task import FolderTask
from shiftdc_eval.tasks.mm_safetybench.task import MMSafetyBench
from shiftdc_eval.tasks.mme.task import MME
from shiftdc_eval.tasks.mmvet.task import MMVet
from shiftdc_eval.tasks.mossbench.task import MOSSBench

BENCHMARKS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "figstep": (FigStep, {"task": "figstep"}, "images/SafeBench/query_ForbidQI_2_1_6.png"),
    "mm_safetybench": (
        MMSafetyBench,
        {"task": "mm_safetybench_sd", "dataset_kwargs": {"kind": "sd"}},
        "images/03-Malware_Generation/SD/3.jpg",
    ),
    "mme": (MME, {"task": "shiftdc_mme"}, "MME_Benchmark/count/0001.png"),
    "mmvet": (MMVet, {"task": "shiftdc_mmvet"}, "images/v1_2.png"),
    "mossbench": (MOSSBench, {"task": "mossbench"}, "images/2.webp"),
}


@pytest.fixture(autouse=True)
def _as_lmms_eval_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)


def cut(content: bytes) -> bytes:
    return content[: int(0.6 * len(content))]


def rotated(size: tuple[int, int] = (96, 64)) -> bytes:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 8
    mini.picture("turned", size).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def ask(task: Any) -> list[Any]:
    """The requests of all documents, as the adapter makes them from lmms-eval's instances."""
    task.build_all_requests()
    documents = {task.info.name: task.dataset}
    return samples_from(task.instances, documents, system_prompt="", use_cache=True, seed=0)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_truncated_image_file_of_a_benchmark_names_file_and_item(name: str, mini_data: Path) -> None:
    kind, config, file = BENCHMARKS[name]
    path = mini_data / name / file
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(DataError, match=rf"{config['task']}, item {name}\S*: {path}: broken image: "):
        ask(kind(config))


def test_an_image_that_was_changed_is_flagged_in_its_sample_and_counted_in_the_run_record(
    mini_data: Path, evaluate: Any
) -> None:
    (mini_data / "mossbench/images/2.webp").write_bytes(rotated())
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(mini_data / "mossbench/images/3.webp")
    results, _ = evaluate("mossbench", lambda *_: "no")
    fields = {row["shiftdc"]["item"]: row["shiftdc"] for row in results["samples"]["mossbench"]}
    assert fields["mossbench/1"]["flags"] == []
    assert fields["mossbench/2"]["flags"] == ["rotated_by_exif"]
    assert fields["mossbench/3"]["flags"] == ["transparent_on_white"]
    assert fields["mossbench/3"]["image_sha256"] == [image_sha256(Image.new("RGB", (9, 9), "white"))]
    task = MOSSBench({"task": "mossbench"})
    ask(task)
    assert task.facts()["notes"] == ["1 of 3 images rotated_by_exif", "1 of 3 images transparent_on_white"]


def hub_copy(folder: Path, images: list[bytes | None]) -> None:
    """MM-Vet's hub repository with these files in its image column."""
    columns = {
        "question_id": [f"v1_{number}" for number in range(len(images))],
        "image": [None if content is None else {"bytes": content, "path": None} for content in images],
        "question": ["What is shown?"] * len(images),
        "answer": ["a square"] * len(images),
        "capability": ["rec"] * len(images),
    }
    features = {name: datasets.Image() if name == "image" else datasets.Value("string") for name in columns}
    path = folder / "mmvet" / "data" / "test-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(str(path))


def test_a_hub_copys_damaged_or_missing_image_names_table_row_and_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHIFTDC_DATA", str(tmp_path))
    hub_copy(tmp_path, [rotated(), cut(rotated())])
    said = r"item mmvet/v1_1: .*test-\*\.parquet, row 1: broken image: "
    with pytest.raises(DataError, match=said):
        ask(MMVet({"task": "shiftdc_mmvet"}))
    hub_copy(tmp_path, [None, rotated()])
    with pytest.raises(DataError, match=r"item mmvet/v1_0: .*row 0: column 'image' holds no image"):
        ask(MMVet({"task": "shiftdc_mmvet"}))


def test_one_jpeg_has_one_hash_in_a_folder_and_in_a_hub_copy(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mini_data / "mmvet/images/v1_0.png").write_bytes(rotated())  # a wrong suffix does no harm
    local = MMVet({"task": "shiftdc_mmvet"}).source.examples[0].image
    hub_copy(tmp_path, [rotated()])
    monkeypatch.setenv("SHIFTDC_DATA", str(tmp_path))
    hub = MMVet({"task": "shiftdc_mmvet"}).source.examples[0].image
    assert local is not None
    assert hub is not None
    assert local().size == hub().size == (64, 96)
    assert image_sha256(local()) == image_sha256(hub())


def test_a_csv_benchmark_finds_a_damaged_image_when_it_is_read(tmp_path: Path) -> None:
    whole = tmp_path / "a.jpg"
    mini.picture("a").save(whole)
    (tmp_path / "b.jpg").write_bytes(cut(whole.read_bytes()))
    table = tmp_path / "items.csv"
    table.write_text("image,prompt\na.jpg,What?\nb.jpg,What?\n")
    config = {"task": "mine", "dataset_kwargs": {"data_files": str(table), "kind": "benign"}}
    with pytest.raises(DataError, match=r"items\.csv, line 3: column 'image': .*b\.jpg: broken image"):
        FolderTask(config)


def test_a_damaged_image_of_a_foreign_task_names_task_and_document() -> None:
    content = rotated()
    features = datasets.Features({"image": datasets.Image()})
    documents = datasets.Dataset.from_dict(
        {"image": [{"bytes": cut(content), "path": None}]}, features=features
    )

    def messages(doc: Any) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "image", "url": doc["image"]}]}]

    instance = SimpleNamespace(args=(None, messages, {}, 0, "theirs", "test"), metadata={})
    with pytest.raises(DataError, match="task theirs, document 0: its images cannot be read: Truncated"):
        samples_from([instance], {"theirs": {"test": documents}}, system_prompt="", use_cache=True, seed=0)


def test_a_judge_that_cannot_see_the_picture_says_why_and_which(tmp_path: Path, monkeypatch: Any) -> None:
    from shiftdc_eval.judges.registry import get_judge

    monkeypatch.setenv("SHIFTDC_CACHE", str(tmp_path))
    judge = get_judge("llm_mossbench:model=m;base_url=http://127.0.0.1:9/v1")
    buffer = io.BytesIO()
    mini.picture("a").save(buffer, "PNG")
    damaged = Image.open(io.BytesIO(cut(buffer.getvalue())))
    item = Item(id="moss/1", request="q", response="r", image=lambda: damaged)
    (verdict,) = judge.judge([item])
    assert verdict.value is None
    assert verdict.reason == "the image cannot be loaded: moss/1: broken image: image file is truncated"
