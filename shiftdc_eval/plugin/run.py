"""`shiftdc-eval run`: lmms-eval with the same arguments, and an exit status that can be trusted.

lmms-eval 0.7.3 prints a traceback and exits 0 when a run fails. This verb runs it in a child process, adds
`--output_path` and `--log_samples` where they are missing, keeps journal and run record beside the results,
hides anything in the output that looks like a secret, ends wrong input in one line, and exits 0 only when a
complete run record and a results file were written.
"""

from __future__ import annotations

import argparse
import io
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.provenance import redact

DEFAULT_OUTPUT = "results"
MOST_DISAGREEMENTS = 10
"""Lines on disagreements between judges at the end of a run; `shiftdc-eval judge` lists more."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb: ours, then lmms-eval's own."""
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = "shiftdc-eval run [--judge NAME ...] LMMS_EVAL_ARGUMENTS"
    parser.add_argument(
        "--judge", action="append", default=[], help="judge to use; may be given several times"
    )
    parser.set_defaults(passed_on=[])


def main(args: argparse.Namespace) -> int:
    """Run lmms-eval; 0 when a complete result was written, 1 when not.

    Raises:
        ConfigError: no lmms-eval arguments.
    """
    if not args.passed_on:
        raise ConfigError(
            "no arguments for lmms-eval; e.g. shiftdc-eval run --model shiftdc_llava --tasks figstep"
        )
    command, output = completed(args.passed_on)
    if "journal=" in (_option(command, "--model_args") or ""):
        raise ConfigError(
            "journal= is set by shiftdc-eval run itself: journal and run record go to --output_path"
        )
    called = shlex.join(["shiftdc-eval", "run", *(f"--judge={name}" for name in args.judge), *args.passed_on])
    environment = {**os.environ, "SHIFTDC_RUNS": str(output), "SHIFTDC_COMMAND": called}
    ours = (_option(command, "--model") or "").startswith("shiftdc_")
    if args.judge:
        environment["SHIFTDC_JUDGES"] = ",".join(args.judge)
    begun = time.time()
    status = _stream([sys.executable, "-m", "shiftdc_eval.plugin.lmms_process", *command], environment)
    needed = {"run record": "run-*.json", "results file": "*_results.json"}
    if not ours:
        del needed["run record"]
    missing = [what for what, pattern in needed.items() if not _newer(output, pattern, begun)]
    if status == 0 and not missing:
        _list_disagreements(_newer(output, "*_samples_*.jsonl", begun))
        return 0
    said = f"lmms-eval exited with {status}"
    if missing:
        said = f"no complete {' and no '.join(missing)} in {output}"
    if _newer(output, "journal-*.jsonl", begun):
        said += "; finished answers are in the journal there"
    print(f"shiftdc-eval run: failed: {said}", file=sys.stderr)
    return 1


def _list_disagreements(samples: list[Path]) -> None:
    """Where judges of one kind differ; nothing is said of tasks that are not ours."""
    from shiftdc_eval.core.results_folder import is_ours
    from shiftdc_eval.judges.cli import list_disagreements

    ours = [path for path in samples if is_ours(path)]
    if ours:
        list_disagreements(ours, (), MOST_DISAGREEMENTS)


def completed(lmms: list[str]) -> tuple[list[str], Path]:
    """The arguments with `--output_path` and `--log_samples` added, and the output folder."""
    command = list(lmms)
    output = _option(command, "--output_path")
    if output is None:
        output = DEFAULT_OUTPUT
        command += ["--output_path", output]
    if "--log_samples" not in command:
        command.append("--log_samples")
    return command, Path(output).absolute()


def _option(command: list[str], name: str) -> str | None:
    for index, word in enumerate(command):
        if word == name and index + 1 < len(command):
            return command[index + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def _stream(command: list[str], environment: dict[str, str]) -> int:
    """Run a command and pass its output on as it comes, with secrets hidden."""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as child:
        assert child.stdout is not None
        # newline="": progress bars keep their carriage returns
        for line in io.TextIOWrapper(child.stdout, encoding="utf-8", errors="replace", newline=""):
            sys.stdout.write(redact(line))
            sys.stdout.flush()
        return child.wait()


def _newer(folder: Path, pattern: str, since: float) -> list[Path]:
    return [path for path in folder.rglob(pattern) if path.stat().st_mtime >= since - 1]
