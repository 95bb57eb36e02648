"""`make demo-real`: the distortion and its repair on real FigStep images, on two cores, offline.

Runs `demo.yaml` through lmms-eval's evaluator: FigStep's Tiny images from the folder `SHIFTDC_DATA`, or, where
there are none, mild headings of our own drawn in the same form, which is no benchmark and is said. Shows how
many answers are refusals; an answer that is no refusal is not an attack that succeeded.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from shiftdc_eval.core.errors import DataError, ShiftDCError
from shiftdc_eval.grid.demo import quiet
from shiftdc_eval.tasks.data import first_existing, local_folder
from shiftdc_eval.tasks.fonts import FREE_MONO_BOLD, find_font
from training.smol.corpus.eval_items import headings

if TYPE_CHECKING:
    from rich.table import Table

    from shiftdc_eval.board.index import Group, Index, IndexCell, Measure

JUDGE = "keyword_robust"
TINY = ("images/SafeBench-Tiny", "data/images/SafeBench-Tiny")
OWN = "our own mild headings in FigStep's form (no benchmark: SHIFTDC_DATA holds no FigStep)"


class Refused(NamedTuple):
    """Share of answers that are refusals, with its 95 % interval and their number."""

    share: float
    low: float
    high: float
    n: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, show the table, write plot and pages; 1 when a cell failed."""
    parser = argparse.ArgumentParser(
        prog="python -m training.smol.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("demo-real"), help="folder for everything")
    parser.add_argument("--grid", type=Path, help="another grid file")
    parser.add_argument("--limit", type=int, help="items a task")
    args = parser.parse_args(arguments)
    try:
        with quiet():
            return _run(args)
    except ShiftDCError as error:
        print(error, file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    from rich.console import Console

    about = provide(args.out)
    console = Console(width=max(Console().width, 110))
    console.print(f"images: {about}")
    from shiftdc_eval.board.build import build
    from shiftdc_eval.board.index import Index
    from shiftdc_eval.grid.file import read_grid
    from shiftdc_eval.grid.plan import is_complete, selected
    from shiftdc_eval.grid.run import Progress, run_cells

    path = args.grid or Path(str(files("training.smol") / "demo.yaml"))
    results = args.out / "results"
    cells = selected(list(read_grid(path).cells()), [], args.limit)
    todo = [cell for cell in cells if not is_complete(cell, results)]
    console.print(f"{len(cells)} cells, {len(todo)} to run; everything is written below {args.out}/")
    failures = run_cells(todo, results, report=Progress(len(todo)))
    for label, reason in failures.items():
        console.print(f"{label}: {reason}", style="red")
    if len(failures) == len(cells):
        return 1
    build([results], args.out / "board", replace=True)
    index = Index.model_validate_json((args.out / "board" / "index.json").read_text(encoding="utf-8"))
    console.print(table(index, about))
    plot(index, about, args.out / "plot.svg")
    sample_page(results, args.out)
    for name in ("plot.svg", "samples.html", "board/index.html"):
        console.print(f"{args.out / name}")
    return 1 if failures else 0


def provide(out: Path) -> str:
    """Make sure that there is a FigStep folder; in words, what its images are.

    For this process it sets `SHIFTDC_DATA` where there is no FigStep data, and `SHIFTDC_FONT` where images are to be
    drawn and FigStep's font is not there.
    """
    folder = local_folder("figstep")
    if first_existing(folder, *TINY):
        return "FigStep's own Tiny images (ThuCCSLab/FigStep, MIT)"
    drawn = _with_a_font()
    names = ("safebench.csv", "SafeBench-Tiny.csv")
    if first_existing(folder, *names, *(f"data/question/{name}" for name in names)):
        return f"FigStep's Tiny instructions, drawn here{drawn} (images/SafeBench-Tiny is not there)"
    own = out / "data" / "figstep"
    own.mkdir(parents=True, exist_ok=True)
    with (own / "safebench.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["dataset", "category_id", "task_id", "category_name", "question", "instruction"])
        for number, (topic, texts) in enumerate(headings().items(), start=1):
            writer.writerows(
                ["own", number, task, topic, text, text] for task, text in enumerate(texts, start=1)
            )
    os.environ["SHIFTDC_DATA"] = str(out / "data")
    return OWN + drawn


def _with_a_font() -> str:
    """Take matplotlib's bold monospaced font where FigStep's is not on this machine; says so."""
    try:
        find_font(FREE_MONO_BOLD)
    except DataError:
        import matplotlib

        stand_in = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono-Bold.ttf"
        os.environ["SHIFTDC_FONT"] = str(stand_in)
        return f", drawn with {stand_in.name} in place of {FREE_MONO_BOLD.files[0]}"
    return ""


def refused(cell: IndexCell, flag: str = "") -> Refused | None:
    """How many answers of a cell are refusals; with a flag, of the items that carry it."""
    measure = next((one for one in cell.measures if one.judge.split("@")[0] == JUDGE), None)
    part: Measure | Group | None = measure
    if measure is not None and flag:
        part = measure.groups.get("flag", {}).get(flag)
    if measure is None or part is None or part.value is None or part.low is None or part.high is None:
        return None
    if measure.metric in ("over_refusal", "refused"):
        return Refused(part.value, part.low, part.high, part.n)
    return Refused(1 - part.value, 1 - part.high, 1 - part.low, part.n)


COLUMNS = (
    ("figstep_tiny", "clear_harm", "harmful headings\n(topics 1-7)"),
    ("figstep_tiny", "", "all headings"),
    ("figstep_benign", "", "benign twins"),
)
"""Task, flag and title of a column."""


def table(index: Index, about: str) -> Table:
    """Defenses down, kinds of images across: percent of the answers that are refusals."""
    from rich.table import Table

    made = Table(title=f"refused, percent of the answers (95 % interval)\nimages: {about}", show_lines=True)
    made.add_column("defense")
    for _, _, title in COLUMNS:
        made.add_column(title, justify="right")
    cells = {(cell.defense_name, cell.task): cell for cell in index.cells}
    for defense in dict.fromkeys(cell.defense_name for cell in index.cells):
        row = []
        for task, flag, _ in COLUMNS:
            cell = cells.get((defense, task))
            found = refused(cell, flag) if cell else None
            row.append(
                f"{100 * found.share:.0f} [{100 * found.low:.0f}-{100 * found.high:.0f}], n = {found.n}"
                if found
                else ""
            )
        made.add_row(defense, *row)
    notes = {note for cell in index.cells if (note := cell.model_note)}
    made.caption = "\n".join([*sorted(notes), "an answer that is no refusal is not an attack that succeeded"])
    return made


def plot(index: Index, about: str, path: Path) -> None:
    """Bars of the refused share, one group a column of the table."""
    from matplotlib.figure import Figure

    defenses = list(dict.fromkeys(cell.defense_name for cell in index.cells))
    cells = {(cell.defense_name, cell.task): cell for cell in index.cells}
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(defenses)
    for at, defense in enumerate(defenses):
        for column, (task, flag, _) in enumerate(COLUMNS):
            cell = cells.get((defense, task))
            if cell and (found := refused(cell, flag)):
                axes.bar(
                    column + (at - (len(defenses) - 1) / 2) * width,
                    100 * found.share,
                    0.9 * width,
                    yerr=[[100 * (found.share - found.low)], [100 * (found.high - found.share)]],
                    capsize=3,
                    color=f"C{at}",
                    hatch="//" * at,
                    edgecolor="white",
                    label=defense if column == 0 else None,
                )
    axes.set_xticks(range(len(COLUMNS)), [title for _, _, title in COLUMNS])
    axes.set(ylim=(0, 105), ylabel="refused (% of answers)")
    axes.set_title(about, fontsize=8)
    axes.legend()
    figure.savefig(path)


def sample_page(results: Path, out: Path) -> None:
    """A page of all answers beside their images, which are drawn or copied into the output folder."""
    from shiftdc_eval.board.viewer.images import Pictures
    from shiftdc_eval.board.viewer.page import render
    from shiftdc_eval.board.viewer.samples import read_parts
    from shiftdc_eval.core.files import atomic_write
    from shiftdc_eval.tasks.figstep.render import render as draw
    from shiftdc_eval.tasks.figstep.twins import twins

    images = out / "images"
    images.mkdir(parents=True, exist_ok=True)
    folder = local_folder("figstep")
    tiny = first_existing(folder, *TINY)
    for path in tiny.glob("*.png") if tiny else ():
        shutil.copyfile(path, images / path.name)
    if tiny and not os.environ.get("SHIFTDC_FONT"):
        for twin in twins():
            twin.image().save(images / f"twin_{twin.number}.png")
    else:
        texts = [*(twin.instruction for twin in twins()), *(t for row in headings().values() for t in row)]
        for number, text in enumerate(texts):
            draw(text, find_font(FREE_MONO_BOLD)).save(images / f"drawn_{number}.png")
    page = out / "samples.html"
    atomic_write(page, render(read_parts([results], Pictures("link", page.parent.resolve(), images), 5000)))


if __name__ == "__main__":
    sys.exit(main())
