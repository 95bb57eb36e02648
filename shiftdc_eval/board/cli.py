"""`shiftdc-eval board`: build, check and export the leaderboard."""

from __future__ import annotations

import argparse
from pathlib import Path

from shiftdc_eval.core.errors import RecordError
from shiftdc_eval.core.terminal import say

DEFAULT_BOARD = Path("leaderboards")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser("build", help="add results to the board and regenerate its pages")
    build.add_argument(
        "results",
        nargs="*",
        type=Path,
        help="folders written by lmms-eval --output_path DIR --log_samples; none: only regenerate the pages",
    )
    build.add_argument("--out", type=Path, default=DEFAULT_BOARD, help="folder of the board")
    build.add_argument("--replace", action="store_true", help="new results replace existing cells")
    build.add_argument(
        "--no-times",
        action="store_true",
        help="omit the answer times of new results (short GPU runs mostly measure warm-up, a busy machine its other "
        "work); runs already on the board keep theirs, unless --replace",
    )
    check = actions.add_parser(
        "check", help="validate every cell, regenerate all pages, fail on a difference"
    )
    export = actions.add_parser(
        "export", help="write Every Eval Ever records and the hub's eval-results files"
    )
    for action in (check, export):
        action.add_argument("board", nargs="?", type=Path, default=DEFAULT_BOARD, help="folder of the board")
    export.add_argument("--out", type=Path, default=Path("export"), help="folder to write to")


def main(args: argparse.Namespace) -> int:
    """Run one action; 0 on success, 1 when a check found a problem.

    Raises:
        RecordError: results or cells are invalid.
    """
    if args.action == "build":
        from shiftdc_eval.board.build import build

        changed = build(args.results, args.out, args.replace, times=not args.no_times)
        for path in changed:
            say(f"cell  {args.out / 'cells' / path}")
        say(f"board {args.out}: {len(changed)} cells new or changed, index.json, leaderboard.md, index.html")
        return 0
    if args.action == "check":
        from shiftdc_eval.board.check import check

        problems = check(args.board)
        for problem in [
            *problems,
            f"board {args.board}: {f'{len(problems)} problems' if problems else 'all is well'}",
        ]:
            say(problem)
        return 1 if problems else 0
    from shiftdc_eval.board.cell_files import CELLS
    from shiftdc_eval.board.export import export

    cells = CELLS.all_of(args.board)
    if not cells:
        raise RecordError(
            f"{args.board}: no board with cells; name the folder that `shiftdc-eval board build` wrote"
        )
    files = export(cells, args.out)
    for line in [*files, f"export {args.out}: {len(files)} files"]:
        say(line)
    return 0
