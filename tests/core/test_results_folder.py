"""One reader of what lmms-eval leaves in a results folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shiftdc_eval.core.errors import ConfigError, RecordError
from shiftdc_eval.core.records import Cost, RunRecord
from shiftdc_eval.core.results_folder import (
    RunRecords,
    find_samples,
    is_ours,
    sample_file,
    sample_files,
)

OURS = {"shiftdc": {"item": "figstep/1_1", "question": "1_1", "prompt_sha256": "0" * 64}}


def write(path: Path, *lines: bytes | str | dict[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    path.write_bytes(b"".join((row if isinstance(row, bytes) else row.encode()) + b"\n" for row in rows))
    return path


def test_task_and_date_come_from_the_name_that_lmms_eval_gives(tmp_path: Path) -> None:
    write(tmp_path / "model" / "20260101_000000_samples_figstep_tiny.jsonl", OURS)
    [file] = sample_files([tmp_path])
    assert (file.date, file.task) == ("20260101_000000", "figstep_tiny")


def test_a_file_under_another_name_is_read_when_it_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "kept.jsonl", OURS)
    [file] = sample_files([path])
    assert (file.task, [source for source, _ in file.samples()]) == ("kept", [f"{path}:1"])


def test_a_file_found_twice_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "run" / "d_samples_figstep.jsonl", OURS)
    assert len(sample_files([tmp_path, path, tmp_path / "run" / ".." / "run"])) == 1


def test_rows_keep_their_line_number_and_text_whatever_ends_a_line_in_unicode(tmp_path: Path) -> None:
    text = '{"resps": "one\u2028two\u0085three"}'
    file = sample_file(write(tmp_path / "d_samples_t.jsonl", "", text, "  ", OURS))
    assert [(number, line) for number, line, _ in file.lines()] == [(2, text), (4, json.dumps(OURS))]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"torn": ', ":2: not JSON .*torn line"),
        (b'{"text": "\xff"}', ":2: not JSON .*utf-8"),
        ("[1]", ":2: expected an object"),
        ({"shiftdc": {"item": 3}}, ":2: shiftdc: item: Input should be a valid string"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_by_line(tmp_path: Path, line: str, words: str) -> None:
    file = sample_file(write(tmp_path / "d_samples_t.jsonl", OURS, line))
    with pytest.raises(RecordError, match=words):
        list(file.samples())


def test_foreign_rows_are_passed_over_and_foreign_files_are_not_ours(tmp_path: Path) -> None:
    mixed = write(tmp_path / "d_samples_a.jsonl", {"doc_id": 1}, OURS)
    foreign = write(tmp_path / "d_samples_mme.jsonl", {"doc_id": 1})
    assert (is_ours(mixed), is_ours(foreign)) == (True, False)
    assert len(list(sample_file(mixed).samples())) == 1
    assert find_samples([tmp_path]) == [mixed]


def test_what_is_not_there_is_said_with_what_is(tmp_path: Path) -> None:
    RunRecords([Path("/nowhere")])  # a folder of the root has one parent alone
    with pytest.raises(RecordError, match="no such results folder"):
        sample_files([tmp_path / "nowhere"])
    with pytest.raises(RecordError, match="--log_samples"):
        sample_files([tmp_path])
    write(tmp_path / "d_samples_mme.jsonl", {"doc_id": 1})
    with pytest.raises(ConfigError, match="no samples of our tasks .*there are: mme"):
        find_samples([tmp_path])
    with pytest.raises(ConfigError, match="no samples of the tasks figstep .*there are: mme"):
        find_samples([tmp_path], ["figstep"])


@pytest.mark.parametrize("tail", [b'{"shiftdc": {"item": "fig', b'{"text": "\xe2\x80', b"\0" * 40, b"{"])
def test_of_a_file_that_is_cut_off_the_whole_rows_are_read_and_the_rest_is_said(
    tmp_path: Path, tail: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "d_samples_t.jsonl", OURS, OURS)
    path.write_bytes(path.read_bytes() + tail)
    file = sample_file(path)
    assert len(list(file.samples())) == len(list(file.samples())) == 2
    assert file.torn() == tail
    [said] = caplog.messages
    assert said.startswith(f"{path}: line 3 is cut off, the 2 before it are read")


def test_a_last_row_without_its_end_is_whole_when_it_can_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "d_samples_t.jsonl", OURS)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert len(list(sample_file(path).samples())) == 1
    assert sample_file(path).torn() == b""
    assert caplog.messages == []


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"a": ' * 100_000, '{"n": ' + "9" * 5000 + "}", "[]", "\xff"]
)
def test_a_results_file_that_cannot_be_read_is_one_line(tmp_path: Path, content: str) -> None:
    file = sample_file(write(tmp_path / "d_samples_t.jsonl", OURS))
    (tmp_path / "d_results.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(RecordError, match="d_results.json: ") as caught:
        _ = file.results
    assert "\n" not in str(caught.value)


def run_record() -> dict[str, object]:
    cost = {"seconds": 1.0, "samples": 1, "reused": 0, "tokens_in": 1, "tokens_out": 1}
    record = RunRecord(
        id="r1",
        started="2026-01-01T00:00:00+00:00",
        finished="",
        model="m",
        revision="r",
        architecture="a",
        defense="none",
        settings={},
        template_sha256="",
        dtype="float32",
        seed=0,
        tasks=[],
        cost=Cost.model_validate(cost),
    )
    return record.model_dump()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"record_version": 2}, "newer version of shiftdc-eval"),
        ({"record_version": 2, "mood": "good"}, "newer version of shiftdc-eval"),
        ({"record_version": 0}, "record_version: "),
        ({"seed": "0"}, "seed: "),
        ({"settings": {"alpha": float("nan")}}, "settings.alpha"),
        ({"settings": {"alpha": [1, {"a": float("inf")}]}}, "settings.alpha"),
        ({"cost": None}, "cost: "),
        ({"finished": "yesterday"}, "finished: "),
        ({"id": "r2"}, "holds run 'r2'"),
    ],
)
def test_a_run_record_that_is_not_one_is_refused_by_file_and_field(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    write(tmp_path / "run-r1.json", {**run_record(), **change})
    with pytest.raises(RecordError, match=words) as caught:
        RunRecords([tmp_path]).get("r1", "row")
    assert str(tmp_path / "run-r1.json") in str(caught.value)
    assert "\n" not in str(caught.value)
