"""A FigStep run on a tiny random model, judged by keywords, an LLM on loopback and a local classifier at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from adapter_harness import write_figstep
from judge_models import save_classifier
from judge_server import JudgeServer, Seen
from warm import Forked, Warm

from shiftdc_eval.board.build import build
from shiftdc_eval.board.cell_files import CELLS
from shiftdc_eval.cli import main
from shiftdc_eval.core.records import SampleField
from shiftdc_eval.judges.rubric import load_rubric

CANARY = "sk-canary-1f8e22c0a9"
PRICES = "127.0.0.1: {judge-1: {input: 2.0, output: 10.0}}"


def opinion(seen: Seen) -> str:
    """The first item is harmful, the second one makes the judge misbehave, every other is safe."""
    if "thing 1 of kind 1." in seen.text:
        return "Verdict: unsafe"
    if "thing 2 of kind 1." in seen.text:
        return f"No verdict, but here is what you sent me: {CANARY}"
    return "Verdict: safe"


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer(reply=opinion) as running:
        yield running


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prices.yaml").write_text(PRICES)
    monkeypatch.setenv("SHIFTDC_DATA", str(write_figstep(tmp_path / "data")))
    monkeypatch.setenv("SHIFTDC_PRICES", str(tmp_path / "prices.yaml"))
    monkeypatch.setenv("SHIFTDC_JUDGE_API_KEY", CANARY)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def samples(out: Path) -> list[dict[str, Any]]:
    [path] = out.rglob("*_samples_figstep.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def fields(out: Path) -> list[SampleField]:
    return [SampleField(**row["shiftdc"]) for row in samples(out)]


def run(warm: Warm, model: Path, judges: list[str], folder: Path) -> Forked:
    """`shiftdc-eval run` with these judges, results in `folder/out`."""
    arguments = f"pretrained={model},defense=none,batch_size=4,device=cpu"
    words = ["run", *(f"--judge={name}" for name in judges)]
    words += ["--model", "shiftdc_vlm", "--model_args", arguments, "--tasks", "figstep"]
    words += ["--gen_kwargs", "max_new_tokens=6", "--output_path", "out"]
    return warm.run("warm:command", words, folder=folder)


def with_canary(folder: Path) -> list[Path]:
    """Files that hold the key."""
    written = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in written if CANARY.encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_key_put_into_a_judges_address_ends_the_run_and_is_shown_and_written_nowhere(
    tiny_llava: Path, tmp_path: Path, environment: None, monkeypatch: pytest.MonkeyPatch, warm: Warm
) -> None:
    monkeypatch.delenv("SHIFTDC_JUDGE_API_KEY")
    judge = f"llm_figstep:model=m;base_url=http://user:{CANARY}@127.0.0.1:9/v1"
    done = run(warm, tiny_llava, ["keyword_robust", judge], tmp_path)
    assert done.status == 2
    assert "put the key into SHIFTDC_JUDGE_API_KEY instead" in done.output()
    assert CANARY not in done.output()
    assert with_canary(tmp_path) == []


@pytest.mark.slow
def test_three_kinds_of_judges_side_by_side_in_the_table_the_samples_the_board_and_from_files(
    tiny_llava: Path,
    tmp_path: Path,
    server: JudgeServer,
    environment: None,
    capsys: pytest.CaptureFixture[str],
    warm: Warm,
) -> None:
    classifier = save_classifier(tmp_path / "classifier")
    judges = [
        "keyword_robust",
        "keyword_gcg",
        f"llm_figstep:model=judge-1;base_url={server.url};backoff=0.01",
        f"local_classifier:model={classifier};unsafe=harm",
    ]
    done = run(warm, tiny_llava, judges, tmp_path)
    said = done.output()
    assert done.status == 0, said[-4000:]
    out = tmp_path / "out"

    # lmms-eval's table: each judge is a column of its own
    (log,) = out.glob("*.log")
    lines = log.read_text().splitlines()
    table = {cells[4].strip(): cells[6] for line in lines if len(cells := line.split("|")) > 8}
    shown = {name: table[name].strip() for name in ("asr", "asr/local_classifier", "unscored/llm_figstep")}
    assert shown == {"asr": "N/A", "asr/local_classifier": "N/A", "unscored/llm_figstep": "1"}, (
        "9 of FigStep's 500 items are no total"
    )
    assert {"refusal_rate", "refusal_rate/keyword_gcg", "keyword_asr", "keyword_asr/keyword_gcg"} < set(table)
    assert "judging" not in table, "costs are for the result file"

    # samples: a field a judge, with what it rests on and what it cost
    found = fields(out)
    assert len(found) == 9
    for field in found:
        assert set(field.verdicts) == {"keyword_robust", "keyword_gcg", "llm_figstep", "local_classifier"}
        by_model = field.verdicts["llm_figstep"]
        assert by_model.rubric == load_rubric("figstep").sha256
        assert (by_model.model, by_model.tokens_in, by_model.tokens_out) == ("judge-1-0613", 100, 7)
        assert by_model.price == pytest.approx((100 * 2 + 7 * 10) / 1e6)
        assert by_model.raw
        local = field.verdicts["local_classifier"]
        assert (local.value, local.model) == ("safe", "classifier")
        assert local.tokens_in
        assert local.price is None, "what this machine costs in money is not known"
        assert field.verdicts["keyword_robust"].price == 0.0
    values = {field.item: field.verdicts["llm_figstep"].value for field in found}
    assert values["figstep/1_1"] == "unsafe"
    assert values["figstep/1_2"] is None, "a reply without a verdict is none"
    assert sorted(map(str, values.values())) == ["None", *["safe"] * 7, "unsafe"]

    # progress and cost so far, and the disagreement of the two harm judges
    assert "9 calls, 0 from cache, 1 unscored, 900+63 tokens, 0.0024 USD" in log.read_text()
    assert "8 scored, 0.0024 USD, 1 unscored (" in " ".join(said.split())
    assert "9 judged by classifier" in log.read_text()
    assert "its memory goes to the judge" in said
    assert "disagree on figstep/1_1: llm_figstep unsafe, local_classifier safe" in said

    # lmms-eval's result file knows the cost too
    [path] = out.rglob("*_results.json")
    cost = json.loads(path.read_text())["results"]["figstep"]["judging,none"]["llm_figstep"]
    assert (cost["tokens_in"], cost["tokens_out"], cost["unscored"]) == (900, 63, 1)
    assert cost["price"] == pytest.approx(9 * 270 / 1e6)

    # no file and no output has the key, though the server sent it back
    assert server.seen[0].headers["authorization"] == f"Bearer {CANARY}"
    assert CANARY not in said
    assert with_canary(tmp_path) == []

    # the board has the cost beside the verdicts, and no text
    board = tmp_path / "board"
    build([out], board)
    [cell] = CELLS.all_of(board)
    [column] = [judge for judge in cell.judges if judge.name == "llm_figstep"]
    assert column.cost is not None
    assert (column.cost.tokens_in, column.cost.tokens_out) == (900, 63)
    assert column.cost.price == pytest.approx(9 * 270 / 1e6)
    assert column.rubric == load_rubric("figstep").sha256
    assert "Verdict:" not in "".join(path.read_text() for path in board.rglob("*") if path.is_file())

    # the same three from files: everything is known, so nothing is asked and nothing changes
    before, asked = samples(out), len(server.seen)
    again = ["judge", str(out), *(f"--judge={name}" for name in judges)]
    assert main(again) == 0
    listed = capsys.readouterr().out
    assert "disagree on figstep/1_1: llm_figstep unsafe, local_classifier safe" in listed
    assert len(server.seen) == asked + 1, "the one without a verdict is asked again"
    after = samples(out)
    for one, other in zip(before, after, strict=True):
        if one["shiftdc"]["item"] != "figstep/1_2":
            assert one == other

    # other judges of the same kinds can be added from files
    more = [
        f"llm_mm_safetybench_guarded:model=judge-1;base_url={server.url}",
        f"local_classifier:model={classifier};unsafe=harm;threshold=0;as=everything",
    ]
    assert main(["judge", str(out), *(f"--judge={name}" for name in more)]) == 0
    assert {field.verdicts["everything"].value for field in fields(out)} == {"unsafe"}
    assert "disagree on figstep/1_3: everything unsafe, llm_figstep safe" in capsys.readouterr().out
    assert len(build([out], board)) == 1
    assert len(CELLS.all_of(board)[0].judges) == 6
