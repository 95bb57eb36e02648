import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shiftdc_eval.core.errors import JournalError, WriteError
from shiftdc_eval.plugin.journal import Journal

CONFIG = {"defense": "none", "seed": 0}


def record(key: str, text: str = "answer") -> dict[str, Any]:
    return {
        "key": key,
        "task": "figstep",
        "text": text,
        "tokens_in": 5,
        "tokens_out": 2,
        "seconds": 0.5,
        "notes": [],
    }


def test_finished_samples_are_found_again(tmp_path: Path) -> None:
    with Journal(tmp_path, CONFIG) as journal:
        journal.append([record("a"), record("b", "two\nlines")])
    with Journal(tmp_path, CONFIG) as journal:
        assert len(journal) == 2
        assert journal.get("b") == record("b", "two\nlines")
        assert journal.get("c") is None


def test_another_configuration_is_another_journal(tmp_path: Path) -> None:
    with Journal(tmp_path, CONFIG) as journal:
        journal.append([record("a")])
    with Journal(tmp_path, {**CONFIG, "seed": 1}) as journal:
        assert journal.get("a") is None


def test_a_torn_last_line_is_cut_and_the_rest_kept(tmp_path: Path) -> None:
    with Journal(tmp_path, CONFIG) as journal:
        journal.append([record("a"), record("b")])
    content = journal.path.read_bytes()
    for cut in range(1, len(content) - content.rstrip(b"\n").rfind(b"\n") - 1):
        journal.path.write_bytes(content[:-cut])
        with Journal(tmp_path, CONFIG) as again:
            assert again.get("a") == record("a")
            assert again.get("b") is None
            again.append([record("b")])
        with Journal(tmp_path, CONFIG) as healed:
            assert healed.get("b") == record("b")
        journal.path.write_bytes(content)


def test_a_damaged_line_in_the_middle_names_file_and_line(tmp_path: Path) -> None:
    with Journal(tmp_path, CONFIG) as journal:
        journal.append([record("a"), record("b")])
    lines = journal.path.read_text().splitlines()
    lines[1] = lines[1][:-5]
    journal.path.write_text("\n".join(lines) + "\n")
    with pytest.raises(JournalError, match=rf"{journal.path.name} line 2 is damaged"):
        Journal(tmp_path, CONFIG)


def test_bytes_that_are_no_text_name_file_and_line(tmp_path: Path) -> None:
    with Journal(tmp_path, CONFIG) as journal:
        journal.append([record("a"), record("b")])
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(lines[0] + lines[1].replace(b"answer", b"\xff\xfe") + lines[2])
    with pytest.raises(JournalError, match="line 2 is damaged"):
        Journal(tmp_path, CONFIG)


def test_a_journal_of_another_version_is_set_aside_not_lost(tmp_path: Path) -> None:
    with Journal(tmp_path, CONFIG) as journal:
        journal.append([record("a")])
    text = journal.path.read_text().replace('"journal": 1', '"journal": 0')
    journal.path.write_text(text)
    with Journal(tmp_path, CONFIG) as again:
        assert again.get("a") is None
    assert [path.read_text() for path in tmp_path.glob("*.version-0")] == [text]


def test_two_runs_cannot_write_the_same_journal(tmp_path: Path) -> None:
    with Journal(tmp_path, CONFIG), pytest.raises(JournalError, match="another run is writing"):
        Journal(tmp_path, CONFIG)


def test_another_process_cannot_write_the_same_journal_until_this_one_has_ended(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from shiftdc_eval.plugin.journal import Journal
with Journal(Path({str(tmp_path)!r}), {CONFIG!r}):
    print("open", flush=True)
    input()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(JournalError, match="another run is writing") as caught:
            Journal(tmp_path, CONFIG)
        assert "\n" not in str(caught.value)
        other.kill()
    with Journal(tmp_path, CONFIG):
        pass


def test_the_lock_holds_within_a_process_that_runs_lmms_eval(tmp_path: Path) -> None:
    import lmms_eval.evaluator  # noqa: F401 (it changes how locks are made)

    test_two_runs_cannot_write_the_same_journal(tmp_path)


def test_each_process_writes_its_own_file_and_reads_all(tmp_path: Path) -> None:
    with Journal(tmp_path, CONFIG, rank=0) as first, Journal(tmp_path, CONFIG, rank=1) as second:
        first.append([record("a")])
        second.append([record("b")])
    with Journal(tmp_path, CONFIG, rank=0) as again:
        assert len(again) == 2


def test_the_first_line_says_what_the_answers_are_of(tmp_path: Path) -> None:
    with Journal(tmp_path, CONFIG) as journal:
        pass
    assert json.loads(journal.path.read_text().splitlines()[0]) == {"journal": 1, "config": CONFIG}


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"file: cannot be written: .*journal="):
        Journal(tmp_path / "file", CONFIG)


def test_a_newer_version_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    with Journal(tmp_path, CONFIG) as journal:
        journal.append([record("a")])
    text = journal.path.read_text().replace('"journal": 1', '"journal": 2')
    journal.path.write_text(text)
    with pytest.raises(JournalError, match="newer version of shiftdc-eval wrote this journal .* update"):
        Journal(tmp_path, CONFIG)
    assert journal.path.read_text() == text


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seconds": float("nan")}, "seconds"),
        ({"seconds": "long"}, "seconds"),
        ({"tokens_in": None}, "tokens_in"),
        ({"tokens_out": -1}, "tokens_out"),
        ({"tokens_out": 10**400}, "tokens_out"),
        ({"notes": "clipped"}, "notes"),
        ({"text": 7}, "text"),
    ],
)
def test_a_line_that_is_no_finished_sample_is_refused_by_field(
    tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    with Journal(tmp_path, CONFIG) as journal:
        journal.append([record("a"), record("b")])
    lines = journal.path.read_text().splitlines()
    lines[1] = json.dumps({**record("a"), **change})
    journal.path.write_text("\n".join(lines) + "\n")
    with pytest.raises(JournalError, match=rf"line 2 is damaged \({field}: .*delete that line") as caught:
        Journal(tmp_path, CONFIG)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line", ["[]", "7", "{}", "[" * 100_000, '{"journal": 1, "config": ' + "[" * 100_000]
)
def test_a_first_line_that_says_nothing_is_refused(tmp_path: Path, line: str) -> None:
    with Journal(tmp_path, CONFIG) as journal:
        journal.append([record("a")])
    kept = journal.path.read_text().splitlines()[1]
    journal.path.write_text(f"{line}\n{kept}\n")
    with pytest.raises(JournalError, match="move") as caught:
        Journal(tmp_path, CONFIG)
    assert "\n" not in str(caught.value)


def test_a_lock_is_given_back_when_the_journal_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path, CONFIG) as journal:
        pass
    whole = journal.path.read_text()
    journal.path.write_text("[]\n")
    with pytest.raises(JournalError):
        Journal(tmp_path, CONFIG)
    journal.path.write_text(whole)
    with Journal(tmp_path, CONFIG):
        pass
