"""README and docs say what the package has. `UPDATE_DOCS=1 pytest tests/test_readme.py` writes their tables anew."""

import os
import re
from pathlib import Path

import generated_docs
import pytest

from shiftdc_eval.cli import VERBS
from shiftdc_eval.defenses import DEFENSES
from shiftdc_eval.grid.cli import shipped
from shiftdc_eval.judges.registry import JUDGES

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
BLOCKS = [
    ("README.md", "results"),
    ("README.md", "defenses"),
    ("README.md", "controls"),
    ("docs/tasks.md", "tasks"),
    ("docs/defenses.md", "defenses"),
    ("docs/options.md", "arguments"),
]


def made(page: str, name: str, capsys: pytest.CaptureFixture[str]) -> str:
    if name == "tasks":
        return generated_docs.tasks(generated_docs.task_rows(capsys))
    if page == "README.md" and name != "results":
        return generated_docs.names(control=name == "controls")
    return {
        "results": generated_docs.results,
        "defenses": generated_docs.defenses,
        "arguments": generated_docs.model_arguments,
    }[name]()


@pytest.mark.parametrize(("page", "name"), BLOCKS)
def test_a_generated_table_is_that_of_the_package(
    page: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, wanted = ROOT / page, made(page, name, capsys)
    text = path.read_text(encoding="utf-8")
    block = generated_docs.block(name)
    if os.environ.get("UPDATE_DOCS"):
        end = "\n" if "\n" in wanted else ""
        text = block.sub(lambda match: f"{match[1]}{wanted}{end}{match[3].lstrip()}", text)
        path.write_text(text, encoding="utf-8")
    found = block.search(text)
    assert found
    assert found[2] == wanted


def test_the_readme_is_read_in_a_minute() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_the_readme_shows_the_python_lines_that_are_tested() -> None:
    shown, tested = (
        re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.S)
        for page in ("README.md", "docs/python.md")
    )
    assert shown == tested


def test_every_shipped_grid_that_the_pages_run_exists() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    named = {name for name in re.findall(r"grid run (\w[\w.-]*)", text) if not name.endswith(".yaml")}
    assert named - {"FILE", "NAME"} <= set(shipped())


def test_every_verb_and_defense_that_the_pages_name_exists() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    assert set(re.findall(r"shiftdc-eval ([a-z]\w*)", text)) <= set(VERBS)
    assert set(re.findall(r"\bdefense=(\w+)", text)) - {"NAME", "defense", "polite"} <= set(DEFENSES)


def test_every_make_target_that_the_pages_name_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"(?:`|^)make ([\w-]+)", text, flags=re.M)) <= targets, path


def test_every_link_to_a_file_leads_to_one() -> None:
    for path in (*PAGES, ROOT / "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)\s#]+)", path.read_text(encoding="utf-8")):
            site = path.parent.name == "api" or re.match(r"[a-z]+:|\.\./\.\./(actions|issues)", target)
            assert site or (path.parent / target).exists(), (path, target)


def test_every_page_that_the_code_names_is_there() -> None:
    for folder in ("shiftdc_eval", "training", "tests", ".github"):
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix in (".py", ".yaml", ".yml", ".j2", ".md"):
                for page in re.findall(r"\bdocs/[\w/]+\.md", path.read_text(encoding="utf-8")):
                    assert (ROOT / page).exists(), (path, page)


def test_the_page_of_grids_names_the_shipped_ones() -> None:
    page = (ROOT / "docs" / "grids.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert {name for cell in rows for name in re.findall(r"`([\w-]+)`", cell)} == set(shipped())


def test_the_pages_of_the_defenses_and_of_the_judges_describe_all() -> None:
    defenses, judges = ((ROOT / "docs" / name).read_text("utf-8") for name in ("defenses.md", "judges.md"))
    assert [name for name in DEFENSES if f"**`{name}`**" not in defenses] == []
    assert [name for name in JUDGES if not re.search(rf"\b{name}\b", judges)] == []


def test_the_citation_has_what_its_schema_requires() -> None:
    import yaml

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    setup = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert f"\nversion = {citation['version']}\n" in setup
