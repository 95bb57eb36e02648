"""`shiftdc-eval board`: build, check and export the leaderboard."""

from __future__ import annotations

import argparse
from pathlib import Path

DEFAULT_BOARD = "leaderboards"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser("build", help="put results on the board and write its pages again")
    build.add_argument(
        "results",
        nargs="*",
        type=Path,
        help="folders written by lmms-eval --output_path DIR --log_samples; none: only write the pages again",
    )
    build.add_argument("--out", type=Path, default=Path(DEFAULT_BOARD), help="folder of the board")
    build.add_argument(
        "--replace", action="store_true", help="new results take the place of cells that are already there"
    )
    build.add_argument(
        "--no-times",
        action="store_true",
        help="leave out how long the answers of new results took (short runs on a GPU mostly time its warm-up, a busy "
        "machine its other work); runs that are on the board keep it, unless --replace",
    )
    check = actions.add_parser(
        "check", help="validate every cell, regenerate all pages, fail on a difference"
    )
    check.add_argument("board", nargs="?", type=Path, default=Path(DEFAULT_BOARD), help="folder of the board")
    export = actions.add_parser(
        "export", help="write Every Eval Ever records and the hub's eval-results files"
    )
    export.add_argument(
        "board", nargs="?", type=Path, default=Path(DEFAULT_BOARD), help="folder of the board"
    )
    export.add_argument("--out", type=Path, default=Path("export"), help="folder to write to")


def main(args: argparse.Namespace) -> int:
    """Run one action; 0 when all is well, 1 when a check found something.

    Raises:
        RecordError: results or cells are invalid.
    """
    if args.action == "build":
        return _build(args)
    return _check(args) if args.action == "check" else _export(args)


def _build(args: argparse.Namespace) -> int:
    from shiftdc_eval.board.build import build

    changed = build(args.results, args.out, args.replace, times=not args.no_times)
    for path in changed:
        print(f"cell  {args.out / 'cells' / path}")
    print(f"board {args.out}: {len(changed)} cells new or changed, index.json, leaderboard.md, index.html")
    return 0


def _check(args: argparse.Namespace) -> int:
    from shiftdc_eval.board.check import check

    problems = check(args.board)
    for problem in problems:
        print(problem)
    print(f"board {args.board}: {f'{len(problems)} problems' if problems else 'all is well'}")
    return 1 if problems else 0


def _export(args: argparse.Namespace) -> int:
    from shiftdc_eval.board.cell_files import read_cells
    from shiftdc_eval.board.export import export

    files = export(read_cells(args.board), args.out)
    for path in files:
        print(path)
    print(f"export {args.out}: {len(files)} files")
    return 0
