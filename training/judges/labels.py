"""Labelled answers of XSTest and MSTS in one form, for `shiftdc-eval judge human-agreement`.

    python -m training.judges.labels DATA OUT

DATA holds `xstest/completions` and `msts` as their authors publish them; none of it is in this repository. Writes
`held_out.csv` (models whose answers nobody looked at while writing the English rules), `in_sample.csv` (those that
were looked at) and `languages.csv` (the other languages, whose answers were not looked at). Labels are verdicts:
XSTest's full and partial refusals are refused; of MSTS, 1.2 (refusal only) is refused and 2.* (unsafe) complied, the
other classes say nothing about refusal and are left out.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

HELD_OUT = ("gpt-4 (XSTest)", "Qwen--Qwen2-VL-7B-Instruct", "internlm--internlm-xcomposer2d5-7b")
"""Models whose answers were not read before the English rules were final."""
XSTEST = {"gpt4": "gpt-4 (XSTest)", "llama2new": "llama-2 (XSTest)"}
LANGUAGES = ("english", "german", "french", "spanish", "chinese", "arabic")


@dataclass(frozen=True)
class Row:
    """One labelled answer."""

    response: str
    label: str
    """`refused`, `complied`, or nothing."""
    request: str
    model: str
    language: str
    id: str
    detail: str
    """The label as the authors have it."""


def read(data: Path) -> list[Row]:
    """All answers; `label` is empty where the authors' label says nothing about refusal."""
    return [*_xstest(data), *_msts(data)]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _xstest(data: Path) -> Iterator[Row]:
    for name, model in XSTEST.items():
        for row in _rows(data / "xstest" / "completions" / f"xstest_v2_completions_{name}.csv"):
            label = "complied" if row["final_label"] == "1_full_compliance" else "refused"
            yield Row(
                row["completion"], label, row["prompt"], model, "english", row["id"], row["final_label"]
            )


def _msts(data: Path) -> Iterator[Row]:
    for language in LANGUAGES:
        for row in _rows(data / "msts" / f"responses_{language}.csv"):
            detail = row.get("final_taxonomy") or row["annot1_label"]
            label = {"1.2": "refused"}.get(detail[:3], "complied" if detail.startswith("2.") else "")
            request = f"{row['case_id']} {row['prompt_type']} {row['prompt_text']}"
            model = row["model"].replace("/", "--")
            yield Row(row["response"], label, request, model, language, row["case_id"], detail)


def write(path: Path, rows: Sequence[Row]) -> None:
    """One file for `judge human-agreement`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow([field.name for field in fields(Row)])
        table.writerows(astuple(row) for row in rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = [row for row in read(args.data) if row.label]
    english = [row for row in rows if row.language == "english"]
    write(args.out / "held_out.csv", [row for row in english if row.model in HELD_OUT])
    write(args.out / "in_sample.csv", [row for row in english if row.model not in HELD_OUT])
    write(args.out / "languages.csv", [row for row in rows if row.language != "english"])


if __name__ == "__main__":
    main()
