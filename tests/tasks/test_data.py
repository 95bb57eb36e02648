"""Question files that cannot be read as they should be: one line with the file, and the line where it has one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from shiftdc_eval.core.errors import ConfigError, DataError
from shiftdc_eval.tasks.data import RemoteFile, fetch, read_csv, read_json, read_text
from shiftdc_eval.tasks.folder.settings import read_line
from shiftdc_eval.tasks.leakage import read_ids
from shiftdc_eval.tasks.mme.task import MME

CP1252 = "id,prompt\n1,fine\n2,It\u2019s not UTF-8\n".encode("cp1252")


def as_dict(path: Path) -> Any:
    return read_json(path, dict)


def as_csv(path: Path) -> Any:
    return read_csv(path, ("id", "prompt"))


@pytest.mark.parametrize("read", [read_text, as_dict, as_csv])
def test_another_encoding_is_named_with_file_line_and_byte(
    read: Callable[[Path], Any], tmp_path: Path
) -> None:
    path = tmp_path / "questions"
    path.write_bytes(CP1252)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value) == f"{path}, line 3: not UTF-8 (byte 0x92); save the file as UTF-8"


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"a": 1}')
    assert as_dict(path) == {"a": 1}
    path.write_bytes(b"\xef\xbb\xbf" + b"id,prompt\n1,two\n")
    assert as_csv(path) == [{"id": "1", "prompt": "two"}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ": the file is empty; line 1 must name the columns id, prompt"),
        ("id,text\n1,a\n", r", line 1: column 'prompt' is missing; it has \['id', 'text'\]"),
        ("id,prompt,prompt\n1,a,b\n", ", line 1: column 'prompt' appears twice"),
        ("id,prompt\n1,a\n2\n", ", line 3: column 'prompt' is empty"),
        ("id,prompt\n1,well, then\n", ", line 2: more cells than line 1 has columns"),
        ('id,prompt\n1,"a\n2,b\n', ", line .: not readable as CSV: unexpected end of data"),
        ("id,prompt\n1,  \n", ", line 2: column 'prompt' is empty"),
        (f"id,prompt\n1,{'x' * 200_000}\n", ", line 2: not readable as CSV: field larger than"),
    ],
)
def test_a_malformed_table_names_its_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=f"^{path}{said}"):
        as_csv(path)


@pytest.mark.parametrize("text", ["", "{", '{"a": ' + "[" * 100_000])
def test_json_that_cannot_be_read_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=f"^{path}: not readable as JSON: ") as caught:
        as_dict(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [read_text, as_dict, as_csv])
def test_a_file_that_cannot_be_opened_is_named(read: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^{tmp_path}: cannot be read: Is a directory"):
        read(tmp_path)


def test_a_question_file_of_mme_and_a_list_of_ids_in_another_encoding_are_named(
    mini_data: Path, tmp_path: Path
) -> None:
    path = mini_data / "mme/MME_Benchmark/OCR/0001.txt"
    path.write_bytes(b"Is it caf\xe9?\tYes\n")
    with pytest.raises(DataError, match=r"0001\.txt, line 1: not UTF-8 \(byte 0xe9\)"):
        MME({"task": "shiftdc_mme"})
    ids = tmp_path / "ids"
    ids.write_bytes(CP1252)
    with pytest.raises(ConfigError, match=r"SHIFTDC_CALIBRATION_IDS: .*ids, line 3: not UTF-8"):
        read_ids(ids)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"id\n1\n"
    file = RemoteFile("xstest", "main", "https://host/a.csv", hashlib.sha256(content).hexdigest())
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("SHIFTDC_CACHE", str(tmp_path / "cache"))
    with patch("urllib.request.urlopen") as asked:
        asked.return_value.__enter__.return_value.read.return_value = content
        with pytest.raises(DataError, match=r"a\.csv: cannot be written: .*; set SHIFTDC_CACHE"):
            fetch(file)


def test_a_lines_judge_that_nothing_knows_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("")
    with pytest.raises(
        ConfigError, match=r"judge=keyword_robst: no judge 'keyword_robst'; did you mean keyword_robust"
    ):
        read_line(f"folder:path={tmp_path},kind=benign,judge=keyword_robst", Path())
