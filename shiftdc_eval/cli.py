"""The command line: `shiftdc-eval VERB ...`.

Each verb lives in the module that does its work and is imported only when it is called, so that
`shiftdc-eval --help` answers at once. Such a module offers `configure(parser)` and `main(args) -> int`; one
that sets the default `passed_on` gets the arguments it does not know there, others refuse them.
"""

from __future__ import annotations

import argparse
import importlib
import os
import select
import signal
import sys
from collections.abc import Sequence

from shiftdc_eval.core.errors import ShiftDCError

VERBS: dict[str, tuple[str, str]] = {
    "run": (
        "shiftdc_eval.plugin.run",
        "run lmms-eval with the same arguments; exits non-zero when no result was written",
    ),
    "demo": ("shiftdc_eval.grid.demo", "the distortion and its repair on the embedded tiny VLM, offline"),
    "direction": ("shiftdc_eval.defenses.direction_cli", "fit or show a safety direction"),
    "tasks": ("shiftdc_eval.tasks.cli", "table of the tasks: sizes, versions, revisions, licences"),
    "defenses": ("shiftdc_eval.defenses.cli", "table of the defenses: source, cost, settings"),
    "judges": ("shiftdc_eval.judges.list_cli", "table of the judges: verdict, what they ask, source"),
    "judge": (
        "shiftdc_eval.judges.cli",
        "judge stored responses again, or calibrate a judge against human labels",
    ),
    "board": ("shiftdc_eval.board.cli", "build or check the leaderboard"),
    "view": ("shiftdc_eval.board.viewer.viewer", "write a page to read the samples of a run"),
    "convert": (
        "shiftdc_eval.backbones.convert.cli",
        "write a model that is published in a layout of its own for transformers",
    ),
    "doctor": ("shiftdc_eval.plugin.doctor", "check a model before a long run"),
    "grid": ("shiftdc_eval.grid.cli", "run a grid of models x defenses x tasks"),
    "analyse": ("shiftdc_eval.analysis.cli", "see what an image does to a model, layer by layer"),
    "explain": (
        "shiftdc_eval.analysis.explain",
        "one answered sample: its safety coordinate over the layers",
    ),
    "sweep": ("shiftdc_eval.analysis.sweeps.cli", "run a shipped ablation, or sum up a finished one"),
}
"""Verb -> (module, one line of help)."""

READER_GONE = 128 + signal.SIGPIPE
"""Exit status a shell gives a program that SIGPIPE ended."""


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, (_, text) in VERBS.items()]
    return "\n".join(["verbs:", *lines, "", "shiftdc-eval VERB --help tells more of each."])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit status is 0 on success, 2 for bad input, 1 for anything else that failed.

    Where whoever reads the output leaves early (`| head`), it ends without a word, as a program that is
    killed by SIGPIPE does; what failed otherwise still says so.
    """
    try:
        status = _run(argv)
    except BaseException as error:
        unread = _unread()
        if isinstance(error, BrokenPipeError) and (unread or _hung_up()):
            return READER_GONE
        # rich meets a broken pipe by itself and exits
        if isinstance(error, SystemExit) and (unread or isinstance(error.__context__, BrokenPipeError)):
            return READER_GONE
        raise
    return READER_GONE if _unread() and not status else status


def _unread() -> bool:
    """Whether output is left that nobody will read; it is thrown away."""
    if sys.stdout is None:  # closed by the caller
        return False
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return True
    return False


def _hung_up() -> bool:
    """Whether it is the output whose reader has gone, not some other pipe: unbuffered output leaves nothing unread."""
    if sys.stdout is None:
        return False
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return bool(output.poll(0))


def _run(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="shiftdc-eval",
        description="Measure and compare inference-time safety defenses for vision-language models.",
        epilog=_overview(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help="what to do")
    if not arguments or arguments[0].startswith("-"):
        parser.parse_args(arguments or ["--help"])
    verb = parser.parse_args(arguments[:1]).verb
    module = importlib.import_module(VERBS[verb][0])
    verb_parser = argparse.ArgumentParser(
        prog=f"shiftdc-eval {verb}", description=VERBS[verb][1], allow_abbrev=False
    )
    module.configure(verb_parser)
    args, rest = verb_parser.parse_known_args(arguments[1:])
    if hasattr(args, "passed_on"):
        args.passed_on = rest
    elif rest:
        verb_parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return int(module.main(args))
    except ShiftDCError as error:
        print(f"shiftdc-eval {verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"shiftdc-eval {verb}: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
