"""`shiftdc-eval run`: lmms-eval with the same arguments, and an exit status that can be trusted.

lmms-eval 0.7.3 prints a traceback and exits 0 when a run fails. This verb checks everything that can be known
before a model is loaded, runs lmms-eval in a child process, adds `--output_path` and `--log_samples` where they are
missing, keeps journal and run record beside the results, hides anything in the output that looks like a secret, and
exits 0 only when this run's own record, results file and samples are there, row by row. It shows one line of progress
and a table of the results; what lmms-eval prints goes to a log file beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shiftdc_eval.core.environment import setting
from shiftdc_eval.core.errors import ConfigError, ShiftDCError, Terminated, said_by
from shiftdc_eval.core.files import writing
from shiftdc_eval.core.model_spec import served
from shiftdc_eval.core.provenance import redact
from shiftdc_eval.core.terminal import say
from shiftdc_eval.core.terminal_log import pass_on
from shiftdc_eval.core.validation import nearest, validated
from shiftdc_eval.plugin import options
from shiftdc_eval.plugin.arguments import DEFAULTS, parse_pairs
from shiftdc_eval.plugin.result_table import print_results
from shiftdc_eval.plugin.saved_files import has_answers, require_whole

DEFAULT_OUTPUT = "results"
MOST_DISAGREEMENTS = 10
"""Lines on disagreements between judges at the end of a run; `shiftdc-eval judge` lists more."""
PATIENCE = 5
"""Seconds that a stopped child has to end, and again once it is told to."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb: ours, then lmms-eval's own."""
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = "shiftdc-eval run [--judge NAME ...] [--verbose] LMMS_EVAL_ARGUMENTS"
    parser.add_argument(
        "--judge", action="append", default=[], help="judge to use; may be given several times"
    )
    parser.add_argument("--verbose", action="store_true", help="show what lmms-eval prints; no log file")
    parser.set_defaults(passed_on=[])


def main(args: argparse.Namespace) -> int:
    """Run lmms-eval; 0 when a complete result was written, 2 for wrong input, 1 for any other failure.

    Raises:
        ConfigError: something is wrong that can be known before a model is loaded; a line each.
    """
    from shiftdc_eval.plugin.lmms_process import Job

    if not args.passed_on:
        raise ConfigError(
            "no arguments for lmms-eval; e.g. shiftdc-eval run --model shiftdc_llava --tasks figstep"
        )
    given = options.read_words(args.passed_on)
    model_args = checked(given, args.judge)
    command = list(args.passed_on)
    if "output_path" not in given:
        command += ["--output_path", DEFAULT_OUTPUT]
    if "log_samples" not in given:
        command.append("--log_samples")
    called = ["shiftdc-eval", "run", *(f"--judge={name}" for name in args.judge), *args.passed_on]
    out, token = Path(str(given.get("output_path", DEFAULT_OUTPUT))), secrets.token_hex(4)
    log = None if args.verbose else out / f"lmms-eval-{datetime.now(UTC):%Y%m%dT%H%M%S}-{token}.log"
    if log:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        say(f"log: {log}", error=True)
    with tempfile.TemporaryDirectory(prefix="shiftdc-run-") as folder:
        job = Job(
            report=Path(folder) / "report.json",
            folder=out.absolute(),
            command=shlex.join(map(redact, called)),
            token=token,
            judges=args.judge,
            given=model_args,
            log=log,
        )
        child = [sys.executable, "-m", "shiftdc_eval.plugin.lmms_process", job.model_dump_json(), *command]
        status = _stream(child, streamed=args.verbose)
        return _concluded(job, status)


def checked(given: Mapping[str, str | bool], judges: list[str]) -> dict[str, str] | None:
    """The model arguments of a model of ours, None for another one, once all that can be known is right.

    Raises:
        ConfigError: a line a problem.
    """
    from shiftdc_eval.plugin import preflight

    found: dict[str, str] | None = None
    problems = [*_problems_of_any_model(given)]
    if given.get("model") in DEFAULTS:
        tasks = [name for name in str(given.get("tasks", "")).split(",") if name]
        problems += options.problems(given, ours_only=preflight.all_ours(tasks))
        problems += preflight.cache_problems()
        problems += preflight.judge_problems(judges)
        problems += preflight.data_problems(tasks, str(given.get("limit", "")), judges)
        mine = dict(DEFAULTS[str(given["model"])])
        unread = said_by(
            lambda: mine.update(served({**mine, **parse_pairs(str(given.get("model_args", "")))}))
        )
        problems += unread or _problems_of_arguments(given, mine, ours_only=preflight.all_ours(tasks))
        if problems and not unread and preflight.needs_defense(mine):
            # where nothing else is wrong, the child looks at them: it imports the defense anyway
            problems += preflight.defense_problems(mine)
        if mine.get("languages") and (judges or setting("SHIFTDC_JUDGES")):
            problems.append(
                f"model argument languages={mine['languages']} has no effect on judges that are chosen (--judge, "
                "SHIFTDC_JUDGES); set it there, as keyword_multilingual:languages=de"
            )
        found = {name: str(value) for name, value in mine.items()}
    preflight.refuse(problems)
    return found


def _problems_of_any_model(given: Mapping[str, str | bool]) -> Iterator[str]:
    """Options that say where results go and what is run, whichever model it is."""
    from shiftdc_eval.plugin import preflight

    if "config" in given:
        yield (
            "--config is not taken here: write its options on the command line, or a grid file for several runs "
            "(`shiftdc-eval grid`)"
        )
    model, tasks = str(given.get("model", "")), str(given.get("tasks", ""))
    if not model and "config" not in given:
        yield f"--model is missing; ours are {', '.join(DEFAULTS)}"
    elif model and model not in DEFAULTS:
        from lmms_eval.models import MODEL_REGISTRY_V2

        known = [*DEFAULTS, *MODEL_REGISTRY_V2.list_model_names()]
        if model not in known:
            yield f"--model {model} is unknown{nearest(model, known)}"
    if not tasks and "config" not in given:
        yield "--tasks is missing; `shiftdc-eval tasks` shows ours"
    elif tasks == "list" or tasks.startswith("list_"):
        yield f"--tasks {tasks} runs nothing; use `lmms-eval --tasks {tasks}` or `shiftdc-eval tasks`"
    else:
        include = [str(given["include_path"])] if "include_path" in given else []
        yield from preflight.task_problems([name for name in tasks.split(",") if name], include)
    yield from preflight.output_problems(Path(str(given.get("output_path", DEFAULT_OUTPUT))), "--output_path")


def _problems_of_arguments(
    given: Mapping[str, str | bool], found: Mapping[str, Any], *, ours_only: bool
) -> Iterator[str]:
    """Model arguments as far as they are known without an import of the defense."""
    from shiftdc_eval.core.model_spec import ModelArguments
    from shiftdc_eval.plugin import preflight

    if "journal" in found:
        yield "journal= is set by shiftdc-eval run itself: journal and run record go to --output_path"
    more = {name: given[name] for name in ("batch_size", "max_batch_size", "device") if name in given}
    yield from preflight.argument_problems({**more, **found})
    named = {name: found[name] for name in ("pretrained", "revision", "engine", "base_url") if name in found}
    if "pretrained" in named and not said_by(lambda: validated(ModelArguments, named, what="model argument")):
        yield from preflight.model_problems(ModelArguments(**named))
    if (
        ours_only
        and str(found.get("seed", "0")) != "0"
        and "do_sample=true" not in str(given.get("gen_kwargs", "")).lower().replace(" ", "")
    ):
        yield (
            f"model argument seed={found['seed']} has no effect with greedy decoding; add "
            "do_sample=True,temperature=T to --gen_kwargs"
        )


def _concluded(job: Any, status: int) -> int:
    """Exit status of a run whose process has ended; says why where it failed."""
    from shiftdc_eval.plugin.lmms_process import Report

    try:
        report = Report.model_validate_json(job.report.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # killed
        report = Report()
    if report.error:
        raise ConfigError(report.error)
    records = [*job.folder.glob(f"run-*-{job.token}*.json")]
    said = ""
    if status != 0:
        said = f"lmms-eval was ended by signal {-status}" if status < 0 else f"lmms-eval exited with {status}"
    elif job.given is not None and not records:
        said = f"no complete run record in {job.folder}"
    elif report.results is None or not report.samples:
        said = f"no results file or no samples in {job.folder}"
    else:
        try:
            require_whole(report.results, report.samples)
        except ShiftDCError as error:
            said = str(error)
    if not said:
        assert report.results is not None
        print_results(report.results, [*report.samples])
        _list_disagreements([*report.samples])
        failed = _failed_judges(report.results)
        for judge, reason in failed.items():
            say(
                f"shiftdc-eval run: {judge}: {reason}; the answers are stored: judge them with "
                f"`shiftdc-eval judge {report.results.parent} --judge ...`",
                error=True,
            )
        for service, reason in report.unsent.items():
            print(
                f"shiftdc-eval run: nothing was sent to {service}: {reason}; the results are saved in "
                f"{report.results.parent}",
                file=sys.stderr,
            )
        return 1 if failed or report.unsent else 0
    if report.failure:
        said = f"{report.failure}; {said}"
    if report.journal is not None and has_answers(report.journal):
        said += "; finished answers are in the journal there: the same command goes on from them"
    if job.log:
        said += f"; log: {job.log}"
    say(f"shiftdc-eval run: failed: {said}", keep="\n", error=True)
    return 130 if status == 130 else 1


def _failed_judges(results: Path) -> dict[str, str]:
    """Judges that could not work at all -> why, in one line."""
    tasks = json.loads(results.read_text(encoding="utf-8")).get("results", {}).values()
    judging = [facts for task in tasks for facts in (task.get("judging,none") or {}).items()]
    told = {name: str(facts.get("failed", "")) for name, facts in judging}
    return {name: reason for name, reason in told.items() if reason}


def _list_disagreements(samples: list[Path]) -> None:
    """Where judges of one kind differ; nothing is said of tasks that are not ours."""
    from shiftdc_eval.core.results_folder import is_ours
    from shiftdc_eval.judges.cli import list_disagreements

    ours = [path for path in samples if is_ours(path)]
    if ours:
        list_disagreements(ours, (), MOST_DISAGREEMENTS)


def _stream(command: list[str], *, streamed: bool) -> int:
    """Exit status of a command; `streamed`: its output is passed on as it comes, with secrets hidden."""
    # whatever this terminal can show: the child's own prints never fail
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:backslashreplace"} if streamed else None
    to = subprocess.PIPE if streamed else None
    with subprocess.Popen(
        command, env=environment, stdout=to, stderr=subprocess.STDOUT if streamed else None
    ) as child:
        try:
            if child.stdout:
                pass_on(child.stdout)
            return child.wait()
        except (
            KeyboardInterrupt
        ) as stop:  # Ctrl-C reaches the child too; a signal to this process alone does not
            if isinstance(stop, Terminated):
                child.terminate()
            for seconds, act in ((PATIENCE, child.terminate), (PATIENCE, child.kill)):
                try:
                    child.wait(seconds)
                except subprocess.TimeoutExpired:
                    act()
            raise
        finally:
            child.kill()
