"""`python -m shiftdc_eval.plugin.lmms_process JOB ARGUMENTS`: lmms-eval as `shiftdc-eval run` starts it.

JOB is JSON (`Job`). What lmms-eval prints goes to the job's log. What was written, or the one line that says what was
wrong, goes to the job's report, so that the caller looks at the files of this run alone, whoever else writes into the
same folder.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from pydantic import BaseModel

from shiftdc_eval.core.errors import ShiftDCError
from shiftdc_eval.core.files import ADVICE
from shiftdc_eval.core.provenance import redact, redacted

LMMS_MESSAGES = ("Tasks not found:", "Model '")
"""How the messages of lmms-eval's own ValueErrors about wrong input begin."""
MOST_SAID = 500
"""Characters of an unexpected error's message."""
REFUSED = 2
"""Exit status of wrong input."""


class Job(BaseModel):
    """Parameters passed by `shiftdc-eval run`."""

    report: Path
    """File for the report."""
    folder: Path
    """Of journal and run record."""
    command: str
    """As the run record shows it, secrets removed."""
    token: str
    """Ends the ids of the runs."""
    judges: list[str]
    """Judge specs of `--judge`."""
    given: dict[str, str] | None
    """Model arguments; None for a model that is not ours."""
    log: Path | None = None
    """File for what lmms-eval prints; None: the terminal."""


class Report(BaseModel):
    """What the process wrote, or why it refused."""

    error: str = ""
    """What was wrong with the input; empty where nothing was."""
    failure: str = ""
    """Kind and message of an unexpected error, whose traceback was printed."""
    results: Path | None = None
    """The results file."""
    samples: dict[Path, int] = {}
    """Samples file -> rows it should have."""
    journal: Path | None = None
    """The journal, as soon as it is open."""
    unsent: dict[str, str] = {}
    """Service that the results were to be sent to -> why they were not."""


@dataclass
class Saved:
    """Wraps lmms-eval's saving: file names unique to this run, secrets redacted, paths and row counts reported."""

    report: Report = field(default_factory=Report)

    def watch(self, tracker: Any) -> None:
        """Wrap the two methods of lmms-eval's `EvaluationTracker` that write files."""
        save_results, save_samples = tracker.save_results_aggregated, tracker.save_results_samples

        def results_saved(this: Any, results: dict[str, Any], samples: Any, datetime_str: str) -> None:
            folder = Path(this.output_path) / this.general_config_tracker.model_name_sanitized
            self.report.results = claimed(folder, datetime_str.replace(":", "-"))
            date = self.report.results.name.removesuffix("_results.json")
            save_results(this, redacted(results), samples, date)
            leave_out_zero_errors(results)

        def samples_saved(this: Any, task_name: str, samples: Any) -> None:
            assert self.report.results is not None
            path = self.report.results.with_name(f"{this.date_id}_samples_{task_name}.jsonl")
            self.report.samples[path] = len(samples)
            save_samples(this, task_name, samples)

        tracker.save_results_aggregated, tracker.save_results_samples = results_saved, samples_saved


def guarded(service: str, logger: Any, unsent: dict[str, str]) -> Callable[..., Any]:
    """Let lmms-eval's logger of a service end nothing: it is made before a model is loaded, and again at the end.

    Args:
        service: name of the service and of its package.
        logger: lmms-eval's class.
        unsent: is told why the service failed; it is then left alone.
    Returns:
        what takes the class's place.
    """

    def attempt(call: Callable[[], Any]) -> Any:
        if service in unsent:
            return None
        try:
            return call()
        except Exception as error:  # whatever a service raises: logged out, no network, a wrong project
            said = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
            missing = find_spec(service) is None
            unsent[service] = redact(f"pip install {service}: it is not installed" if missing else said)
            print(f"{service} failed, the run goes on without it: {unsent[service]}", flush=True)
            return None

    def made(**options: Any) -> Any:
        inner = attempt(lambda: logger(**options))

        def method(name: str) -> Callable[..., Any]:
            return lambda *args: attempt(lambda: attrgetter(name)(inner)(*args))

        names = ("post_init", "log_eval_result", "log_eval_samples", "finish")
        run = SimpleNamespace(finish=method("run.finish"))
        return SimpleNamespace(run=run, **{name: method(name) for name in names})

    return made


def leave_out_zero_errors(results: Mapping[str, Any]) -> None:
    """Take standard errors of 0 out of the printed table: 4 of 4 answers do not mean that the rate is certain.

    The central limit theorem says nothing there; the board has Wilson intervals.
    """
    for values in results.get("results", {}).values():
        for name, value in values.items():
            if "_stderr_clt," in name and value == 0:
                values[name] = "N/A"


def claimed(folder: Path, date: str) -> Path:
    """Create an empty results file under an unused name: runs that end in the same second would share one."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        path = folder / f"{date}{f'-{number}' if number else ''}_results.json"
        try:
            path.open("x").close()
        except FileExistsError:
            number += 1
            continue
        return path


def is_wrong_input(error: BaseException | None) -> bool:
    """Whether an error is wrong input or names a file, so that its message suffices without a traceback."""
    return (
        isinstance(error, ShiftDCError)
        or _names_a_file(error)
        or (isinstance(error, ValueError) and str(error).startswith(LMMS_MESSAGES))
    )


def _names_a_file(error: BaseException | None) -> bool:
    """A full disk or a forbidden folder where lmms-eval saves: the message names file and reason."""
    return isinstance(error, OSError) and error.errno in ADVICE and error.filename is not None


def one_line_for_wrong_input(
    command: Any,
    tell: Callable[[str], None],
    *,
    failed: Callable[[str], None] = lambda said: None,
    stop: bool = True,
) -> None:
    """Let lmms-eval's command end wrong input in one line where it prints a traceback and goes on to exit 0.

    Args:
        command: the module `lmms_eval.__main__`.
        tell: is given the message, secrets removed.
        failed: is given kind and message of any other error, secrets removed.
        stop: end the process with status 2; False where further runs follow.
    """

    def print_exc(*args: Any, **options: Any) -> None:
        error = sys.exc_info()[1]
        if not is_wrong_input(error):
            traceback.print_exc(*args, **options)
            failed(in_a_line(error))
            return
        tell(redact(str(error)))
        if stop:
            raise SystemExit(REFUSED)

    command.traceback = SimpleNamespace(**{**vars(traceback), "print_exc": print_exc})


def defended(given: Mapping[str, str]) -> None:
    """Check the defense's settings before lmms-eval starts.

    Raises:
        ConfigError: a line a problem.
    """
    from shiftdc_eval.plugin.preflight import defense_problems, needs_defense, refuse

    if needs_defense(given):
        refuse(defense_problems(given))


def in_a_line(error: BaseException | None) -> str:
    """Kind and message of an error, secrets removed; of what lmms-eval has retried, the last one."""
    if type(error).__name__ == "RetryError" and error is not None:
        error = error.__cause__ or error
    return redact(" ".join(f"{type(error).__name__}: {error}".split())[:MOST_SAID])


def main(words: list[str]) -> NoReturn:
    """Run lmms-eval, write the report, exit."""
    from shiftdc_eval.core.terminal_line import shown

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    job = Job.model_validate_json(words[0])
    saved = Saved()

    def write_report() -> None:
        job.report.write_text(saved.report.model_dump_json(), encoding="utf-8")

    with shown(job.log) if job.log else nullcontext(SimpleNamespace()) as line:
        try:
            status = _evaluated(job, words[1:], saved, line, write_report)
        except ShiftDCError as error:
            saved.report.error = redact(str(error))
            status = REFUSED
        except SystemExit as stop:
            status = stop.code
        except KeyboardInterrupt:
            status = 130
        except Exception as error:  # whatever an import or a library raises; the traceback is in the log
            traceback.print_exc()
            saved.report.failure = in_a_line(error)
            status = 1
    write_report()
    sys.exit(status)


def _evaluated(
    job: Job, words: list[str], saved: Saved, line: Any, write_report: Callable[[], None]
) -> int | str | None:
    """lmms-eval's command; `line.stage` says what it does."""
    report = saved.report

    def tell(message: str) -> None:
        report.error = message

    def failed(said: str) -> None:
        report.failure = said

    def opened(journal: Path) -> None:
        report.journal, line.stage = journal, "evaluating"
        write_report()  # a killed process writes none later

    line.stage = "importing lmms-eval"
    if job.judges:
        os.environ["SHIFTDC_JUDGES"] = ",".join(job.judges)
    if job.given is not None:
        defended(job.given)
    from lmms_eval import __main__ as command
    from lmms_eval.loggers import EvaluationTracker

    from shiftdc_eval.plugin.adapter import ShiftDCLlava, ShiftDCServer, ShiftDCVlm

    line.stage = "loading tasks and model"
    for model in (ShiftDCVlm, ShiftDCLlava, ShiftDCServer):
        model.defaults = {**model.defaults, "journal": job.folder}
    ShiftDCVlm.command, ShiftDCVlm.token = job.command, job.token
    ShiftDCVlm.opened = opened
    one_line_for_wrong_input(command, tell, failed=failed)
    command.WandbLogger = guarded("wandb", command.WandbLogger, report.unsent)
    command.SwanLabLogger = guarded("swanlab", command.SwanLabLogger, report.unsent)
    saved.watch(EvaluationTracker)
    sys.argv = ["lmms-eval", *words]
    command.cli_evaluate()
    return 0


if __name__ == "__main__":
    main(sys.argv[1:])
