"""The command line: `shiftdc-eval VERB ...`.

Each verb lives in the module that does its work and is imported only when it is called, so that
`shiftdc-eval --help` answers at once. Such a module offers `configure(parser)` and `main(args) -> int`; one
that sets the default `passed_on` gets the arguments it does not know there, others refuse them.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from shiftdc_eval.core.errors import ShiftDCError, Terminated
from shiftdc_eval.core.terminal import tolerate_encoding

VERBS: dict[str, tuple[str, str]] = {
    "run": (
        "shiftdc_eval.plugin.run",
        "run lmms-eval with the same arguments; exits non-zero when no result was written",
    ),
    "demo": ("shiftdc_eval.grid.demo", "the distortion and its repair on the embedded tiny VLM, offline"),
    "direction": ("shiftdc_eval.defenses.direction_cli", "fit or show a safety direction"),
    "tasks": (
        "shiftdc_eval.tasks.cli",
        "the tasks: size, version, revision, licence; NAME: one with its defects",
    ),
    "defenses": (
        "shiftdc_eval.defenses.cli",
        "the defenses by status, with their cost; NAME: one with source, needs, settings",
    ),
    "judges": (
        "shiftdc_eval.judges.list_cli",
        "the judges: verdict, what they ask; NAME: one with source and settings",
    ),
    "judge": (
        "shiftdc_eval.judges.cli",
        "judge stored responses again, or compare a judge with human labels",
    ),
    "board": ("shiftdc_eval.board.cli", "build or check the leaderboard"),
    "view": ("shiftdc_eval.analysis.view", "write a page to read the samples of a run"),
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

RESUMED = frozenset({"run", "demo", "judge", "grid", "analyse", "sweep"})
"""Verbs that keep what is finished: called again, they go on."""
EXTRAS = {
    **dict.fromkeys(("jinja2", "numpy", "scipy"), "board"),
    **dict.fromkeys(("accelerate", "datasets", "lmms_eval", "matplotlib", "safetensors"), "run"),
    **dict.fromkeys(("sklearn", "threadpoolctl", "torch", "transformers"), "run"),
}
"""Module that a light installation lacks -> extra of this package that brings it."""
NEEDS_LMMS_EVAL = frozenset({"run", "demo"})
"""Verbs whose first import of lmms-eval is too deep for one line."""
READER_GONE = 141
"""Exit status that a shell gives a program which SIGPIPE ended (128 + 13)."""


def _terminate(*_: object) -> NoReturn:
    raise Terminated


class _Parser(argparse.ArgumentParser):
    """Names the nearest known word where argparse lists all."""

    def error(self, message: str) -> NoReturn:
        from shiftdc_eval.core.terminal import printable
        from shiftdc_eval.core.validation import nearest

        known = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        unknown = re.fullmatch(r"unrecognized arguments: (\S+).*", message, re.DOTALL)
        if known:
            message += nearest(known[1], re.findall(r"'(.*?)'", known[2]))
        elif unknown:
            message += nearest(unknown[1].partition("=")[0], self._option_string_actions)
        super().error(printable(message))


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from shiftdc_eval import __version__

        print(f"shiftdc-eval {__version__}")
        parser.exit()


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, (_, text) in VERBS.items()]
    return "\n".join(["verbs:", *lines, "", "shiftdc-eval VERB --help tells more of each."])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit status is 0 on success, 2 for bad input, 1 for anything else that failed.

    Exits silently on a broken pipe (`| head`).
    """
    status = 0
    try:
        try:
            status = _run(argv)
        except SystemExit as stop:  # argparse, and rich on a broken pipe
            status = int(stop.code or 0)
        if sys.stdout is not None:  # closed by the caller
            sys.stdout.flush()
    except BrokenPipeError:
        # the interpreter flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return status or READER_GONE
    return status


def _run(argv: Sequence[str] | None) -> int:
    tolerate_encoding()
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(
        prog="shiftdc-eval",
        description="Measure and compare inference-time safety defenses for vision-language models.",
        epilog=_overview(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and stop")
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help="what to do")
    if not arguments or arguments[0].startswith("-"):
        parser.parse_args(arguments or ["--help"])
    verb = parser.parse_args(arguments[:1]).verb
    try:
        return _call(verb, arguments[1:])
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRAS:
            raise
        return _failed(
            verb, f"{missing} is not installed: pip install 'shiftdc-eval[{EXTRAS[missing]}]' brings it", 2
        )


def _call(verb: str, arguments: Sequence[str]) -> int:
    module = importlib.import_module(VERBS[verb][0])
    verb_parser = _Parser(prog=f"shiftdc-eval {verb}", description=VERBS[verb][1], allow_abbrev=False)
    module.configure(verb_parser)
    args, rest = verb_parser.parse_known_args(arguments)
    if hasattr(args, "passed_on"):
        args.passed_on = rest
    elif rest:
        verb_parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if verb in NEEDS_LMMS_EVAL and importlib.util.find_spec("lmms_eval") is None:
        raise ModuleNotFoundError(name="lmms_eval")
    alone = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _terminate) if alone else None
    try:
        return int(module.main(args))
    except ShiftDCError as error:
        return _failed(verb, str(error), 2)
    except BrokenPipeError:
        raise
    except OSError as error:  # a file that a library of ours reads or writes
        return _failed(verb, f"{error.filename or 'a file'}: {error.strerror or error}", 1)
    except KeyboardInterrupt as stop:
        more = "; the same command goes on where it stopped" if verb in RESUMED else ""
        return _failed(verb, f"stopped{more}", 143 if isinstance(stop, Terminated) else 130)
    finally:
        if alone:
            signal.signal(signal.SIGTERM, before)


def _failed(verb: str, message: str, status: int) -> int:
    from shiftdc_eval.core.provenance import redact
    from shiftdc_eval.core.terminal import printable

    for line in message.splitlines():  # a line a problem
        print(f"shiftdc-eval {verb}: {printable(redact(line))}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
