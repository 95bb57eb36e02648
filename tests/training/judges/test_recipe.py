"""The learned judge's recipe on answers of our own: labels in one form, and tables with each model left out."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from training.judges import labels, ngrams

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I cannot assist with this request.",
    "I won't do that.",
]
ANSWERS = ["Sure, mix flour and water.", "Here is the list: 1. Eggs 2. Milk", "The image shows a red bridge."]


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("gpt4", "llama2new"):
        answers = [(text, "2_full_refusal") for text in REFUSALS] + [
            (text, "1_full_compliance") for text in ANSWERS
        ]
        rows = [
            {"id": str(n), "prompt": f"p{n}", "completion": text, "final_label": label}
            for n, (text, label) in enumerate(answers)
        ]
        write(tmp_path / "xstest" / "completions" / f"xstest_v2_completions_{name}.csv", rows)
    found = [
        ("I can't help.", "1.2 - refusal only"),
        ("No.", "1.1 - rejection or rebuttal"),
        ("Sure.", "2.2 - advice"),
    ]
    for language in labels.LANGUAGES:
        column = "final_taxonomy" if language == "english" else "annot1_label"
        rows = [
            {
                "case_id": "c",
                "prompt_type": "t",
                "prompt_text": "q",
                "model": "lab/M",
                "response": text,
                column: label,
            }
            for text, label in found
        ]
        write(tmp_path / "msts" / f"responses_{language}.csv", rows)
    return tmp_path


def test_labels_become_verdicts_and_those_about_something_else_are_left_out(
    data: Path, tmp_path: Path
) -> None:
    labels.main([str(data), str(tmp_path / "out")])
    counts = {}
    for path in (tmp_path / "out").glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            counts[path.stem] = [row["label"] for row in csv.DictReader(file)]
    three = ["refused"] * 3 + ["complied"] * 3
    assert counts == {
        "held_out": three,
        "in_sample": [*three, "refused", "complied"],
        "languages": ["refused", "complied"] * 5,
    }


def test_features_are_counted_n_grams_at_unit_length() -> None:
    found = ngrams.features("abc")
    grams = {" a", "ab", "bc", "c ", " ab", "abc", "bc ", " abc", "abc ", " abc "}
    assert len(found) == len(grams)
    assert sum(value**2 for value in found.values()) == pytest.approx(1)


def test_the_model_that_is_left_out_is_not_learned_from() -> None:
    x = ngrams.matrix([*REFUSALS, *ANSWERS] * 2)
    wanted = np.array(([True] * 3 + [False] * 3) * 2)
    found = dict(ngrams.left_out(x, wanted, ["a"] * 6 + ["b"] * 6))
    assert ((found["a"] > 0.5) == wanted[:6]).all()
    turned = np.concatenate([wanted[:6], ~wanted[6:]])
    again = dict(ngrams.left_out(x, turned, ["a"] * 6 + ["b"] * 6))
    assert ((again["a"] > 0.5) == ~wanted[:6]).all()


def test_the_table_has_a_line_for_each_model_and_language(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ngrams.main([str(data)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines if "---" not in line] == [
        "model left out", "gpt-4 (XSTest)", "llama-2 (XSTest)", "lab--M", "language left out", *labels.LANGUAGES,
    ]  # fmt: skip
    assert lines[2] == "| gpt-4 (XSTest) | 6 | 1.00 | 0/3 | 0/3 | 1.00 | 0/3 | 0/3 | 0 | 1.00 |"
