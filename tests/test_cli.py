"""The real command line, in processes of its own: one with its imports, which take ten seconds, the others forks."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from adapter_harness import answers, evaluate, write_figstep
from filelock import FileLock
from warm import Warm

from shiftdc_eval.core.records import RunRecord
from shiftdc_eval.plugin.adapter import ShiftDCVlm

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def figstep_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIFTDC_DATA", str(write_figstep(tmp_path / "data")))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    pairs = [{"unsafe": f"forge pass {number}", "safe": f"paint kite {number}"} for number in range(12)]
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


def run_arguments(model: Path, out: str, defense: str = "shiftdc") -> list[str]:
    arguments = f"pretrained={model},defense={defense},batch_size=2,device=cpu"
    if defense == "shiftdc":
        arguments += ",caption_max_new_tokens=4,contrast=few.jsonl"
    return [
        "--model", "shiftdc_vlm", "--model_args", arguments, "--tasks", "figstep",
        "--gen_kwargs", "max_new_tokens=6", "--output_path", out,
    ]  # fmt: skip


def rows(out: Path) -> dict[str, tuple[str, str]]:
    (path,) = out.rglob("*_samples_figstep.jsonl")
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["shiftdc"]["item"]: (row["shiftdc_item"]["response"], row["shiftdc"]["run"]) for row in found}


def test_run_writes_a_complete_result_and_hides_secrets(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary4711canary4711")
    done = subprocess.run(
        [sys.executable, "-m", "shiftdc_eval.cli", "run", *run_arguments(tiny_llava, "out")],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert "keyword_robust" in done.stdout
    assert "9 scored" in done.stdout
    assert "lmms_eval" not in done.stdout
    assert "canary4711" not in done.stdout
    (record,) = [RunRecord.model_validate_json(p.read_text()) for p in (tmp_path / "out").glob("run-*.json")]
    found = rows(tmp_path / "out")
    assert len(found) == 9
    assert {run for _, run in found.values()} == {record.id}
    written = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    (log,) = (p for p in written if p.suffix == ".log")
    assert done.stdout.splitlines()[0] == f"log: out/{log.name}"
    assert "refusal_rate" in log.read_text()
    assert not [p for p in written if b"canary4711" in p.read_bytes()]


def test_a_failed_run_is_visible(tmp_path: Path, warm: Warm) -> None:
    done = warm.run("warm:command", ["run", *run_arguments(Path("/no/such/model"), "out")], folder=tmp_path)
    assert done.status == 2
    (line,) = done.output().splitlines()
    assert "cannot load pretrained=/no/such/model" in line


def test_a_run_on_a_journal_that_another_one_writes_is_refused_in_one_line(
    tiny_llava: Path, tmp_path: Path, warm: Warm
) -> None:
    words = ["run", *run_arguments(tiny_llava, "out", "none"), "--limit", "2"]
    assert warm.run("warm:command", words, folder=tmp_path).status == 0
    (lock,) = (tmp_path / "out").glob("journal-*.lock")
    with FileLock(lock):
        done = warm.run("warm:command", words, folder=tmp_path)
    assert done.status == 2, "there are results, but another run's"
    last = done.output().splitlines()[-1]
    assert last.startswith("shiftdc-eval run: another run is writing")
    assert "Traceback" not in done.output()


def test_two_processes_give_the_same_cell_as_one(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: Warm
) -> None:
    monkeypatch.setenv("SHIFTDC_RUNS", str(tmp_path / "two"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    words = [*run_arguments(tiny_llava, "two"), "--log_samples"]
    ranks = [
        warm.start("warm:lmms_eval", words, folder=tmp_path, RANK=rank, LOCAL_RANK=rank, **place)
        for rank in ("0", "1")
    ]
    assert [rank.wait() for rank in ranks] == [0, 0], "".join(rank.output()[-2000:] for rank in ranks)
    monkeypatch.setenv("SHIFTDC_RUNS", str(tmp_path / "one"))
    monkeypatch.chdir(tmp_path)
    single = ShiftDCVlm.create_from_arg_string(run_arguments(tiny_llava, "one")[3])
    wanted = answers(evaluate(single, "figstep", gen_kwargs="max_new_tokens=6"), "figstep")
    assert {item: response for item, (response, _) in rows(tmp_path / "two").items()} == wanted
    (record,) = [RunRecord.model_validate_json(p.read_text()) for p in (tmp_path / "two").glob("run-*.json")]
    assert record.cost.samples == 9, "the copy that evens out 9 items over 2 processes is not counted"
    journals = sorted((tmp_path / "two").glob("journal-*.jsonl"))
    assert [len(path.read_text().splitlines()) - 1 for path in journals] == [5, 4]
