"""`shiftdc-eval judge RUN --judge NAME` and `shiftdc-eval judge human-agreement LABELS --judge NAME`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.files import atomic_write
from shiftdc_eval.core.records import JudgeCost
from shiftdc_eval.core.results_folder import find_samples
from shiftdc_eval.core.terminal import say
from shiftdc_eval.core.validation import nearest
from shiftdc_eval.judges.human_labels import read_labels
from shiftdc_eval.judges.registry import judges_for
from shiftdc_eval.judges.rejudge import disagreements, rejudge
from shiftdc_eval.judges.verdict import Judge

if TYPE_CHECKING:
    from shiftdc_eval.core.records import Calibration, LabelAgreement, Rate

REASONS = 5
"""Reasons for unscored answers that are printed for a judge, the commonest first."""
DESCRIPTION = """Judge the stored answers of a run again, without a model:
  shiftdc-eval judge RUN --judge keyword_robust --judge 'llm_figstep:model=M'
RUN is a results folder (with samples files) or one samples file.
Interrupted work is resumed.

Compare a judge with human labels (CSV, TSV, JSON or JSONL with the columns
response and label):
  shiftdc-eval judge human-agreement LABELS --judge keyword_robust \\
    --map full_refusal=refused"""
AGREEMENT = ("human-agreement", "calibrate")
"""The first target that asks for a comparison with labels, and its name of earlier versions."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.description = DESCRIPTION
    parser.epilog = "`shiftdc-eval judges` lists the judges, `judges NAME` the settings of one."
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("target", nargs="*", metavar="RUN | human-agreement LABELS", help="what to judge")
    parser.add_argument(
        "--judge", action="append", default=[], metavar="SPEC", help="a judge; may be repeated"
    )
    parser.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="TASK",
        help="only samples of this task; may be repeated",
    )
    parser.add_argument(
        "--disagreements", type=int, default=20, metavar="N", help="list at most N disagreements (default 20)"
    )
    group = parser.add_argument_group("human-agreement")
    group.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="OURS=THEIRS",
        help="column of the labels' file; label=A+B+C is the majority of several annotators",
    )
    group.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="LABEL=VERDICT",
        help="what a label means as a verdict; `LABEL=` leaves its answers out, `*=VERDICT` is every other label",
    )
    group.add_argument(
        "--across-kinds",
        action="store_true",
        help="take labels of harm for a refusal judge, or labels of refusal for a harm judge",
    )
    group.add_argument(
        "--data", default="", metavar="NAME", help="name of the labelled answers, for the board"
    )
    group.add_argument(
        "--sample",
        choices=("in", "out"),
        default="",
        help="whether the judge was made with these labels in view; the board shows `out` alone",
    )
    group.add_argument("--json", type=Path, metavar="FILE", help="also write the outcome as JSON")
    group.add_argument(
        "--attach", type=Path, metavar="RUN", help="also write it into a results folder, one file a judge"
    )


def main(args: argparse.Namespace) -> int:
    """Run the verb.

    Raises:
        ShiftDCError: what cannot be done, in one line.
    """
    if not any(spec.strip() for spec in args.judge):
        raise ConfigError("name a judge with --judge; `shiftdc-eval judges` lists them")
    judges = judges_for([], chosen=args.judge)
    if args.target and args.target[0] in AGREEMENT:
        return _human_agreement(args, judges)
    if not args.target:
        raise ConfigError("name a results folder or a samples file")
    first = args.target[0]
    if (like := nearest(first, AGREEMENT)) and not Path(first).exists():
        raise ConfigError(f"{first}: no such results folder or samples file{like}")
    return _rejudge([Path(target) for target in args.target], judges, args.task, args.disagreements)


def _rejudge(paths: Sequence[Path], judges: Sequence[Judge], tasks: Sequence[str], most: int) -> int:
    for outcome in rejudge(paths, judges, tasks):
        if outcome.skipped:
            say(
                f"{outcome.path}: {outcome.judge}: skipped, a utility task (its answers are scored against "
                "references)"
            )
            continue
        values = ", ".join(f"{value} {count}" for value, count in outcome.values.items())
        say(
            f"{outcome.path}: {outcome.judge}: {outcome.judged} judged now, {outcome.kept} had its verdict; {values}"
        )
        if outcome.cost.tokens_in != 0:
            say(f"{outcome.path}: {outcome.judge}: {spent(outcome.cost)}")
    list_disagreements(paths, tasks, most)
    return 0


def spent(cost: JudgeCost) -> str:
    """The cost of a judge in words."""
    tokens = ["?" if count is None else str(count) for count in (cost.tokens_in, cost.tokens_out)]
    seconds = "time unknown" if cost.seconds is None else f"{cost.seconds:.1f} s"
    price = "price unknown" if cost.price is None else f"{cost.price:.4f} USD"
    return f"cost {seconds}, {'+'.join(tokens)} tokens, {price}"


def list_disagreements(paths: Sequence[Path], tasks: Sequence[str], most: int) -> None:
    """Print where judges of one kind differ, below their file if there are several, and how many more than `most`."""
    found = disagreements(paths, tasks)
    shown = list(islice(found, max(0, most)))
    more = sum(1 for _ in found)
    several = len(find_samples(paths, tasks)) > 1
    for before, one in zip([None, *shown], shown, strict=False):
        if several and (before is None or before.path != one.path):
            say(f"{one.path}:")
        repeat = f" (repeat {one.repeat})" if one.repeat else ""
        say(f"disagree on {one.item}{repeat}: {one.first[0]} {one.first[1]}, {one.second[0]} {one.second[1]}")
    if more:
        say(
            f"and {more} more disagreements; list them with `shiftdc-eval judge RUN --judge NAME "
            f"--disagreements {len(shown) + more}`"
        )


def _human_agreement(args: argparse.Namespace, judges: Sequence[Judge]) -> int:
    # Imported here: the statistics packages take seconds, which judging a run need not wait for.
    from shiftdc_eval.judges.human_agreement import calibrate

    paths = [Path(target) for target in args.target[1:]]
    if not paths:
        raise ConfigError(f"name a file with human labels after `{args.target[0]}`")
    if args.attach and not args.attach.is_dir():
        raise ConfigError(f"--attach {args.attach}: no such results folder")
    if args.json and args.json.is_dir():
        raise ConfigError(f"--json {args.json}: a folder; name a file")
    columns, mapping = _pairs(args.column, "--column"), _pairs(args.map, "--map")
    outcomes = []
    for judge in judges:
        labelled = read_labels(paths, judge.kind, columns, mapping, across_kinds=args.across_kinds)
        told = {"data": args.data, "sample": args.sample, "across_kinds": args.across_kinds}
        outcomes.append(calibrate(judge, labelled, mapping, **told))
    say(table(outcomes), keep="\n")
    for outcome in outcomes:
        for reason, count in list(outcome.reasons.items())[:REASONS]:
            say(f"{outcome.judge}: {count} unscored: {reason}")
    if args.json:
        atomic_write(args.json, "[" + ",\n".join(one.model_dump_json() for one in outcomes) + "]\n")
    if args.attach:
        for outcome in outcomes:
            path = args.attach / f"human_agreement_{outcome.judge}.json"
            atomic_write(path, outcome.model_dump_json(indent=1) + "\n")
    return 0


def _pairs(arguments: Sequence[str], option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key or not (value or option == "--map"):
            raise ConfigError(f"{option} {argument!r} is not of the form A=B")
        if key in pairs:
            raise ConfigError(f"{option} {key}=... is given twice")
        pairs[key] = value
    return pairs


def table(outcomes: Sequence[Calibration]) -> str:
    """The outcomes as a Markdown table; rates in percent, 95 % intervals (by prompt) in brackets."""
    lines = [
        "| judge | source | n | prompts | unscored | accuracy % | kappa | FPR % | FNR % | TN | FP | FN | TP |",
        "|---|---|---:|---:|---:|---|---|---|---|---:|---:|---:|---:|",
    ]
    for outcome in outcomes:
        parts = [*outcome.agreements, *outcome.by_model, *outcome.by_language]
        lines += [_line(outcome.judge, part) for part in parts]
    return "\n".join(lines)


def _line(judge: str, agreement: LabelAgreement) -> str:
    counts = [count for row in agreement.confusion.values() for count in row.values()]
    cells = [
        judge,
        agreement.source,
        agreement.scored,
        agreement.prompts,
        agreement.unscored,
        _shown(agreement.accuracy, 100, 1),
        _shown(agreement.kappa, 1, 2),
        _shown(agreement.false_positive_rate, 100, 1),
        _shown(agreement.false_negative_rate, 100, 1),
        *counts,
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _shown(rate: Rate, factor: float, digits: int) -> str:
    if rate.value is None:
        return "n/a"
    if rate.low is None or rate.high is None:
        return f"{rate.value * factor:.{digits}f}"
    low, high = (f"{limit * factor:.{digits}f}" for limit in (rate.low, rate.high))
    return f"{rate.value * factor:.{digits}f} [{low}, {high}]"
