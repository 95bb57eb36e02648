"""The tables of README and docs that are made from the package and from the board, each between two comments."""

from __future__ import annotations

import ast
import itertools
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from shiftdc_eval.board.index import ALONE
from shiftdc_eval.cli import main
from shiftdc_eval.core import model_spec
from shiftdc_eval.defenses import DEFENSES
from shiftdc_eval.plugin import arguments

ROOT = Path(__file__).resolve().parents[2]


class Column(NamedTuple):
    """One task of the README's table of results."""

    title: str
    task: str
    clear_harm: bool = False
    """Take the answers to clearly harmful items alone."""


HARM, BENIGN = "harm refused:", "harmless refused:"
RESULTS = (
    Column(f"{HARM} FigStep images", "figstep", clear_harm=True),
    Column(f"{HARM} MM-SafetyBench typography", "mm_safetybench_typo", clear_harm=True),
    Column(f"{BENIGN} FigStep twins", "figstep_benign"),
    Column(f"{BENIGN} XSTest", "xstest_safe"),
    Column(f"{BENIGN} MOSSBench texts", "mossbench_text_only"),
)
JUDGE = "keyword_robust@"


def results() -> str:
    """Refused shares of the small research model, from the board's index."""
    index = json.loads((ROOT / "leaderboards" / "index.json").read_text(encoding="utf-8"))
    shares: dict[str, dict[str, str]] = {}
    counts: dict[str, int] = {}
    for cell in sorted(index["cells"], key=lambda cell: (-cell["answered"], cell["path"])):
        (column,) = [one for one in RESULTS if one.task == cell["task"]] or [None]
        ranks = not set(cell["not_ranked"]) - {ALONE}
        if column is None or cell["mark"] != "small research model" or not ranks:
            continue
        for measure in cell["measures"]:
            if measure["judge"].startswith(JUDGE):
                part = measure["groups"]["flag"]["clear_harm"] if column.clear_harm else measure
                counts.setdefault(column.title, part["n"])
                shares.setdefault(cell["defense"], {}).setdefault(column.title, _share(part))
    titles = [column.title for column in RESULTS if column.title in counts]
    head = ["defense", *(f"{title}, n = {counts[title]}" for title in titles)]
    rows = [
        [f"`{name}`", *(shares[name].get(title, "–") for title in titles)]
        for name in sorted(shares, key=lambda name: (name != "none", name))
    ]
    return table(head, rows)


def _share(part: dict[str, Any]) -> str:
    value, low, high = (100 * part[key] for key in ("value", "low", "high"))
    return f"{value:.{0 if value >= 1 or not value else 1}f} [{low:.0f}-{high:.0f}]"


def defenses() -> str:
    """Name, status, needs, cost and source of every defense of this package."""
    rows = []
    for name in DEFENSES:
        defense = DEFENSES[name]
        if not DEFENSES.distribution(name):
            needs = ", ".join(sorted(defense.needs - {"generate"})) or "answers alone"
            cost = defense.extra_cost.strip("- ") or "none"
            rows.append([f"`{name}`", defense.status or "–", needs, cost, defense.source])
    return table(["defense", "status", "needs besides answers", "cost besides the answer", "source"], rows)


def names(control: bool) -> str:
    """The defenses, or the controls, in a line."""
    return ", ".join(
        f"`{name}`" for name in DEFENSES if name != "none" and (DEFENSES[name].status == "control") is control
    )


def tasks(rows: list[dict[str, Any]]) -> str:
    """Every task, from the output of `shiftdc-eval tasks --json`."""
    return table(
        ["task", "items", "data", "revision", "licence"],
        [
            [
                f"`{row['name']}`",
                "as set" if row["size"] is None else str(row["size"]),
                row["dataset"],
                _short(str(row["revision"])),
                row["licence"],
            ]
            for row in rows
        ],
    )


def _short(revision: str) -> str:
    """A commit's first digits; words as they are."""
    return revision if " " in revision else revision[:12]


def model_arguments() -> str:
    """Every model argument with its default and its docstring."""
    rows = []
    for module, name in ((model_spec, "ModelArguments"), (arguments, "AdapterArguments")):
        fields = getattr(module, name).model_fields
        for field, text in _docstrings(Path(str(module.__file__)), name).items():
            default = "needed" if fields[field].is_required() else fields[field].default
            rows.append([f"`{field}`", "–" if default in (None, "") else str(default).lower(), text])
    return table(["argument", "default", "meaning"], rows)


def _docstrings(path: Path, name: str) -> dict[str, str]:
    """The line below each field of a class."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    found = {}
    for field, below in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            text = ast.literal_eval(below.value)
            found[ast.unparse(field.target)] = " ".join(text.split()).removesuffix(".")
    return found


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def task_rows(capsys: Any) -> list[dict[str, Any]]:
    """What `shiftdc-eval tasks --json` prints."""
    assert main(["tasks", "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def block(name: str) -> re.Pattern[str]:
    """What stands between `<!-- name -->` and `<!-- /name -->`, in lines of their own or within one."""
    return re.compile(rf"(<!-- {name} -->\n?)(.*?)(\n?<!-- /{name} -->)", flags=re.S)
