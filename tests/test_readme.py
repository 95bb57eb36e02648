"""The README's tables are those of the package. `UPDATE_DOCS=1 pytest tests/test_readme.py` writes them anew."""

import json
import os
import re
from pathlib import Path

import pytest

from shiftdc_eval.cli import VERBS, main
from shiftdc_eval.defenses import DEFENSES
from shiftdc_eval.grid.cli import shipped
from shiftdc_eval.judges.registry import JUDGES

README = Path(__file__).resolve().parents[1] / "README.md"


def task_table(capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["tasks", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    lines = ["| task | items | data | revision | licence |", "|---|---|---|---|---|"]
    for row in rows:
        size = "as set" if row["size"] is None else str(row["size"])
        lines.append(
            f"| `{row['name']}` | {size} | {row['dataset']} | {short(str(row['revision']))} | {row['licence']} |"
        )
    return "\n".join(lines)


def short(revision: str) -> str:
    """A commit's first digits; words as they are."""
    return revision if " " in revision else revision[:12]


def test_the_readme_shows_the_tasks_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    table = task_table(capsys)
    text = README.read_text(encoding="utf-8")
    block = re.compile(r"(<!-- tasks -->\n).*?(\n<!-- /tasks -->)", flags=re.S)
    if os.environ.get("UPDATE_DOCS"):
        text = block.sub(lambda match: match[1] + table + match[2], text)
        README.write_text(text, encoding="utf-8")
    assert table in text


def test_every_verb_and_defense_the_readme_names_exists() -> None:
    text = README.read_text(encoding="utf-8")
    assert {verb for verb in re.findall(r"shiftdc-eval (\w+)", text)} <= set(VERBS)
    assert set(re.findall(r"defense=(\w+)", text)) <= set(DEFENSES)


def test_the_page_of_grids_names_the_shipped_ones() -> None:
    page = (README.parent / "docs" / "grids.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert {name for cell in rows for name in re.findall(r"`([\w-]+)`", cell)} == set(shipped())


def test_the_page_of_the_method_and_of_the_judges_names_all() -> None:
    method, judges = (
        (README.parent / "docs" / name).read_text("utf-8") for name in ("method.md", "judges.md")
    )
    assert [name for name in DEFENSES if not re.search(rf"\b{name}\b", method, flags=re.I)] == []
    assert [name for name in JUDGES if not re.search(rf"\b{name}\b", judges)] == []
