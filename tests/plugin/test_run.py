"""What `shiftdc-eval run` makes of what lmms-eval has done: its own files, whole, or not 0."""

import errno
import io
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from shiftdc_eval.core.errors import ConfigError, RecordError
from shiftdc_eval.core.terminal import tolerate_encoding
from shiftdc_eval.core.terminal_log import pass_on
from shiftdc_eval.plugin import run
from shiftdc_eval.plugin.lmms_process import (
    Job,
    Report,
    Saved,
    claimed,
    guarded,
    leave_out_zero_errors,
    one_line_for_wrong_input,
)
from shiftdc_eval.plugin.saved_files import require_whole


def command_module() -> Any:
    """Stands in for `lmms_eval.__main__`."""
    module = ModuleType("command")
    module.traceback = traceback  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("model argument alpha=big"),
        OSError(errno.ENOSPC, "No space left on device", "x_results.json"),
        ValueError("Tasks not found: figstepp."),
        ValueError("Model 'shiftdc_lava' not found"),
    ],
)
def test_wrong_input_ends_lmms_eval_with_its_message_alone(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    module = command_module()
    one_line_for_wrong_input(module, told.append)
    try:
        raise error
    except Exception:
        with pytest.raises(SystemExit) as stop:
            module.traceback.print_exc()
    assert stop.value.code == 2
    assert told == [str(error)]
    assert capsys.readouterr() == ("", "")
    assert module.traceback.format_exc is traceback.format_exc


def test_any_other_error_prints_its_whole_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    module = command_module()
    failed: list[str] = []
    one_line_for_wrong_input(module, lambda message: pytest.fail(message), failed=failed.append)
    caused_by_input = KeyError("x")
    caused_by_input.__cause__ = ConfigError("alpha=big")
    retried = type("RetryError", (Exception,), {})("<Future at 0x7f>")
    retried.__cause__ = RuntimeError("CUDA error\n in a kernel")
    for error in (KeyError("x"), ValueError("not a number"), caused_by_input, retried):
        try:
            raise error
        except Exception:
            module.traceback.print_exc()
        said = capsys.readouterr().err
        assert said.startswith(
            ("Traceback (most recent call last):", "shiftdc_eval.core.errors.ConfigError", "RuntimeError")
        )
        assert said.endswith(f"{type(error).__name__}: {error}\n")
    assert failed[1] == "ValueError: not a number"
    assert failed[3] == "RuntimeError: CUDA error in a kernel"


class Tracker:
    """Writes as lmms-eval's tracker does: appends samples, swallows errors."""

    def __init__(self, folder: Path) -> None:
        self.output_path = str(folder)
        self.general_config_tracker = SimpleNamespace(model_name_sanitized="model")

    def save_results_aggregated(self, results: dict[str, Any], samples: Any, datetime_str: str) -> None:
        self.date_id = datetime_str
        self.folder = Path(self.output_path) / "model"
        (self.folder / f"{datetime_str}_results.json").write_text(json.dumps(results))

    def save_results_samples(self, task_name: str, samples: Any) -> None:
        with (self.folder / f"{self.date_id}_samples_{task_name}.jsonl").open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in samples)


def saved(folder: Path, **results: Any) -> Report:
    watched = type("Watched", (Tracker,), {})
    report = Saved()
    report.watch(watched)
    tracker = watched(folder)
    tracker.save_results_aggregated(results=results, samples=None, datetime_str="20261130_10:00:00")
    tracker.save_results_samples(task_name="t", samples=[{"a": 1}, {"a": 2}])
    return report.report


def test_two_runs_that_end_in_one_second_share_no_file(tmp_path: Path) -> None:
    first, second = saved(tmp_path), saved(tmp_path)
    for report in (first, second):
        assert report.results is not None
        require_whole(report.results, report.samples)
    assert not first.samples.keys() & second.samples.keys()
    assert len(list(tmp_path.rglob("*_results.json"))) == 2


def test_secrets_are_taken_out_of_the_results_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "it's\"canary")
    report = saved(
        tmp_path, config={"model_args": "system_prompt=it's\"canary", "gen_kwargs": {"api_key": "canary"}}
    )
    assert report.results is not None
    assert "canary" not in report.results.read_text()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("d_results.json", b"", "is not whole"),
        ("d_results.json", b'{"a": ', "is not whole"),
        ("d_results.json", None, "No such file"),
        ("d_samples_t.jsonl", b"", "has 0 rows where 2 were answered"),
        ("d_samples_t.jsonl", None, "No such file"),
        ("d_samples_t.jsonl", b'{"a": 1}\n', "has 1 rows where 2"),
        ("d_samples_t.jsonl", b'{"a": 1}\n{"a": 2', "its last row is cut"),
        ("d_samples_t.jsonl", b'{"a": 1}\n{"a": \n', "row 2 of 2"),
        ("d_samples_t.jsonl", b'{"a": 1}\n{"a": 2}\n{"a": 3}\n', "has 3 rows where 2"),
    ],
)
def test_a_missing_cut_or_shared_file_is_named(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    results, samples = tmp_path / "d_results.json", tmp_path / "d_samples_t.jsonl"
    results.write_text("{}")
    samples.write_text('"one\u2028answer"\n{}\n', encoding="utf-8")
    require_whole(results, {samples: 2})
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RecordError, match=said) as caught:
        require_whole(results, {samples: 2})
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def job(folder: Path) -> Job:
    return Job(
        report=folder / "report.json",
        folder=folder,
        command="x",
        token="4711abcd",
        judges=[],
        given={"defense": "none"},
    )


def test_only_the_files_of_its_own_run_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = job(tmp_path)
    # another run has just written a whole result into the same folder
    report = saved(tmp_path)
    (tmp_path / "run-20261130T100000-ffffffff.json").write_text("{}")
    mine.report.write_text(Report().model_dump_json())
    assert run._concluded(mine, 0) == 1
    assert "no complete run record" in capsys.readouterr().err
    (tmp_path / "run-20261130T100000-4711abcd.json").write_text("{}")
    assert run._concluded(mine, 0) == 1
    assert "no results file" in capsys.readouterr().err
    mine.report.write_text(report.model_dump_json())
    assert run._concluded(mine, 0) == 0
    next(iter(report.samples)).write_text("")
    assert run._concluded(mine, 0) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "has 0 rows where 2 were answered" in said


def test_a_refused_run_is_one_line_whatever_stands_in_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = job(tmp_path)
    saved(tmp_path)
    mine.report.write_text(Report(error="another run is writing the journal").model_dump_json())
    with pytest.raises(ConfigError, match="another run is writing the journal"):
        run._concluded(mine, 2)
    assert capsys.readouterr() == ("", "")


def test_a_killed_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, journal = job(tmp_path), tmp_path / "journal-mine.rank0.jsonl"
    (tmp_path / "journal-another.rank0.jsonl").write_text("{}\n{}\n")
    goes_on = []
    for report in (None, Report(), Report(journal=journal)):
        for lines in ("", "{}\n", '{}\n{"key', "{}\n{}\n"):
            if report:
                mine.report.write_text(report.model_dump_json())
            journal.write_text(lines)
            assert run._concluded(mine, -9) == 1
            said = capsys.readouterr().err
            assert "ended by signal 9" in said
            goes_on.append("the same command goes on" in said)
    assert goes_on == [False] * 11 + [True], "only where this run's own journal holds an answer"


def test_a_failed_run_names_the_error_and_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = job(tmp_path).model_copy(update={"log": tmp_path / "run.log"})
    mine.report.write_text(Report(failure="RuntimeError: CUDA error").model_dump_json())
    assert run._concluded(mine, 0) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("shiftdc-eval run: failed: RuntimeError: CUDA error; no complete run record in ")
    assert said.endswith(f"; log: {tmp_path / 'run.log'}")


STOPPED = """
import signal, sys
from shiftdc_eval import cli
from shiftdc_eval.plugin import run
signal.signal(signal.SIGTERM, cli._terminate)
run._stream([sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"], streamed=False)
"""


def test_a_signal_to_the_run_alone_ends_lmms_eval_too() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as mine:
        assert mine.stdout is not None
        child = int(mine.stdout.readline())
        os.kill(child, 0)
        mine.terminate()
        mine.communicate(timeout=30)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


class Service:
    """Stands in for lmms-eval's logger of a service."""

    def __init__(self, fails: str, **options: str) -> None:
        self.fails, self.calls, self.run = fails, [str(options)], self
        self._called("init")

    def _called(self, name: str) -> None:
        if name == self.fails:
            raise RuntimeError(f"api_key not configured (no-tty)\n  {name}")
        self.calls.append(name)

    def post_init(self, results: object) -> None:
        self._called(f"post_init {results}")

    def finish(self) -> None:
        self._called("finish")


@pytest.mark.parametrize("fails", ["", "init", "post_init {}", "finish", "missing"])
def test_a_service_that_fails_ends_nothing_and_the_run_is_no_success(
    fails: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unsent: dict[str, str] = {}
    made: list[Service] = []

    def logger(**options: str) -> Service:
        made.append(Service("init" if fails == "missing" else fails, **options))
        return made[-1]

    service = guarded("no_such_package" if fails == "missing" else "json", logger, unsent)(project="p")
    service.post_init({})
    service.run.finish()
    capsys.readouterr()
    mine, report = job(tmp_path), saved(tmp_path)
    (tmp_path / "run-20261130T100000-4711abcd.json").write_text("{}")
    mine.report.write_text(report.model_copy(update={"unsent": unsent}).model_dump_json())
    assert run._concluded(mine, 0) == (1 if fails else 0)
    lines = capsys.readouterr().err.splitlines()
    if fails:
        assert len(lines) == 1
        assert ("pip install no_such_package" if fails == "missing" else f"(no-tty) {fails}") in lines[0]
        assert f"the results are saved in {tmp_path / 'model'}" in lines[0]
    else:
        assert lines == []
        assert made[0].calls == ["{'project': 'p'}", "init", "post_init {}", "finish"]


def test_a_claimed_name_is_taken_by_nobody_else(tmp_path: Path) -> None:
    names = [claimed(tmp_path / "model", "d").name for _ in range(3)]
    assert names == ["d_results.json", "d-1_results.json", "d-2_results.json"]


def test_the_printed_table_claims_no_certainty() -> None:
    values = {"keyword_asr,none": 1.0, "keyword_asr_stderr_clt,none": 0.0, "x_stderr_clt,none": 0.2}
    leave_out_zero_errors({"results": {"t": values}})
    assert values == {"keyword_asr,none": 1.0, "keyword_asr_stderr_clt,none": "N/A", "x_stderr_clt,none": 0.2}


def test_output_that_a_terminal_cannot_show_fails_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "canary4711")
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii", newline=""))
    tolerate_encoding()
    pass_on(io.BytesIO("asr ↑ 0.5\r100 %\ncanary4711\n".encode()))
    assert shown.getvalue() == b"asr \\u2191 0.5\r100 %\n***\n"


def test_a_judge_that_failed_is_named_and_the_run_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, report = job(tmp_path), saved(tmp_path)
    (tmp_path / "run-20261130T100000-4711abcd.json").write_text("{}")
    mine.report.write_text(report.model_dump_json())
    assert report.results is not None
    written = json.loads(report.results.read_text())
    judging = {"good": {"failed": ""}, "llm_figstep": {"failed": "judge failed: JudgeError: HTTP 400"}}
    written["results"] = {"figstep": {"judging,none": judging}, "another": {}}
    report.results.write_text(json.dumps(written))
    assert run._concluded(mine, 0) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "llm_figstep: judge failed: JudgeError: HTTP 400; the answers are stored" in said
