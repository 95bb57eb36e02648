"""`--model shiftdc_server`: what is sent, what is recorded, and what is refused before anything is sent."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from adapter_harness import evaluate, manager, write_figstep
from judge_server import JudgeServer, Seen, completion
from PIL import Image
from served_model import Given, ask_server, run_records
from server_faults import http

import shiftdc_eval
from shiftdc_eval.backbones import Chat, GenerationSettings
from shiftdc_eval.backbones.chat import Turn
from shiftdc_eval.board.build import index_of
from shiftdc_eval.board.ingest.join import join
from shiftdc_eval.cli import main
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.reasoning import final_answer
from shiftdc_eval.defenses import DEFENSES
from shiftdc_eval.grid.file import read_grid
from shiftdc_eval.plugin.adapter import ShiftDCServer, ShiftDCVlm

KEY = "marker-of-a-key-77"
ANSWERS_ALONE = [name for name in DEFENSES if DEFENSES[name].needs <= {"generate"}]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[JudgeServer]:
    monkeypatch.setenv("SHIFTDC_SERVER_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with JudgeServer(reply=lambda seen: f"Echo: {seen.text}") as running:
        yield running
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


Ask = Callable[..., list[Given]]


@pytest.fixture
def ask(server: JudgeServer, tmp_path: Path) -> Ask:
    return lambda prompts, folder="journal", **more: ask_server(server, prompts, tmp_path / folder, **more)


def shown(seen: Seen) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = seen.body["messages"][-1]["content"]
    return content


# ---- what is sent -------------------------------------------------------------------------------


def test_a_chat_is_sent_as_it_is_with_its_pixels(server: JudgeServer, ask: Ask) -> None:
    images = [Image.effect_noise((31, 17), 90).convert("RGB"), Image.new("RGB", (3, 5), "red")]
    turns = (
        Turn("user", ("Before.", images[0], "between", images[1])),
        Turn("assistant", ("Said.",)),
        Turn("user", ("Look", images[0])),
    )
    ask([Chat(turns)], system_prompt="Be kind.")
    (seen,) = server.seen
    system, first, said, last = seen.body["messages"]
    assert (system, said) == (
        {"role": "system", "content": "Be kind."},
        {"role": "assistant", "content": "Said."},
    )
    assert [part["type"] for part in first["content"]] == ["text", "image_url", "text", "image_url"]
    assert [part["text"] for part in first["content"][::2]] == ["Before.", "between"]
    sent = [part["image_url"]["url"] for part in [*first["content"][1::2], last["content"][1]]]
    for url, image in zip(sent, [*images, images[0]], strict=True):
        head, _, data = url.partition(",")
        assert head == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).tobytes() == image.tobytes()
    assert seen.headers["authorization"] == f"Bearer {KEY}"


def test_an_image_that_servers_find_too_large_goes_as_jpeg_and_is_noted(
    server: JudgeServer, ask: Ask, tmp_path: Path
) -> None:
    noise = Image.frombytes("RGB", (1200, 1200), random.Random(0).randbytes(3 * 1200 * 1200))
    ask([Chat.ask("a", [noise]), "b"])
    (content,) = [shown(seen) for seen in server.seen if seen.text == "a"]
    assert content[0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    (record,) = run_records(tmp_path / "journal")
    assert record.notes == ["an image is sent as JPEG, its PNG is too large: 1 of 2 answers"]


def test_greedy_is_temperature_0_without_a_seed(server: JudgeServer, ask: Ask) -> None:
    ask(["a"])
    rest = {name: value for name, value in server.seen[0].body.items() if name != "messages"}
    assert rest == {"model": "judge-1", "max_tokens": 64, "temperature": 0.0}


def test_a_sampled_answer_has_a_seed_of_its_own_that_a_later_run_repeats(
    server: JudgeServer, ask: Ask
) -> None:
    sampled = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 5}
    seeds = []
    for folder, seed in (("one", 3), ("two", 3), ("three", 4)):
        server.seen.clear()
        ask(["a", "b"], folder, gen_kwargs=sampled, seed=seed)
        bodies = sorted((seen.body for seen in server.seen), key=lambda body: str(body["messages"]))
        assert [(b["temperature"], b["top_p"], b["top_k"]) for b in bodies] == [(0.7, 0.9, 5)] * 2
        seeds.append([body["seed"] for body in bodies])
    assert seeds[0] == seeds[1]
    assert len({*seeds[0], *seeds[2]}) == 4
    assert all(0 <= seed < 2**31 for run in seeds for seed in run)


def test_stop_strings_are_cut_off_here(server: JudgeServer, ask: Ask) -> None:
    server.reply = lambda seen: "one\n\ntwo STOP three"
    (answer,) = ask(["a"], gen_kwargs={"until": ["STOP"]})
    assert answer.text == "one\n\ntwo "
    assert "stop" not in server.seen[0].body


def test_parameters_that_a_model_does_not_know_are_learned_and_recorded(
    server: JudgeServer, ask: Ask, tmp_path: Path
) -> None:
    server.newer = True
    ask(["a", "b", "c"])
    assert server.seen[-1].body["max_completion_tokens"] == 64
    assert "temperature" not in server.seen[-1].body
    (record,) = run_records(tmp_path / "journal")
    assert record.notes == ["asked with max_completion_tokens and without temperature: 3 of 3 answers"]


def test_a_begun_message_is_continued_where_the_server_can(server: JudgeServer) -> None:
    server.reply = lambda seen: " and goes on."
    model = shiftdc_eval.load("judge-1", engine="server", base_url=server.url, continues=True)
    (answer,) = model.backbone.generate([Chat.ask("a").with_answer_begun("It begins")], GenerationSettings())
    assert answer.text == "It begins and goes on."
    body = server.seen[0].body
    assert body["messages"][-1] == {"role": "assistant", "content": "It begins"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert "begin" in model.backbone.capabilities
    (answer,) = model.answer([Chat.ask("a")], defense="always_prefix")
    assert answer.text == f"{server.seen[-1].body['messages'][-1]['content']} and goes on."
    plain = shiftdc_eval.load("judge-1", engine="server", base_url=server.url)
    assert plain.backbone.capabilities == {"generate"}


# ---- defenses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("defense", ANSWERS_ALONE)
def test_defenses_that_need_answers_alone_run(server: JudgeServer, ask: Ask, defense: str) -> None:
    image = Image.new("RGB", (8, 8), "blue")
    found = ask([Chat.ask("What is it?", [image]), "No image"], defense=defense)
    assert [one.why for one in found] == ["", ""]
    assert all(one.text for one in found)


@pytest.mark.parametrize("defense", sorted({*DEFENSES} - {*ANSWERS_ALONE}))
def test_any_other_ends_in_one_line_before_anything_is_sent(server: JudgeServer, defense: str) -> None:
    required = {"astra": ",vectors=text,alpha=1"}.get(defense, "")
    with pytest.raises(ConfigError) as raised:
        ShiftDCServer.create_from_arg_string(f"base_url={server.url},model=m,defense={defense}{required}")
    assert "\n" not in str(raised.value)
    assert server.seen == []


def test_ecso_checks_answers_itself_and_shares_first_answers_and_captions(
    server: JudgeServer, ask: Ask
) -> None:
    def reply(seen: Seen) -> str:
        if isinstance(seen.body["messages"][-1]["content"], str):
            return "from the caption"
        return "Yes" if "harmful, unsafe" in seen.text else "first"

    server.reply = reply
    chats = [Chat.ask(f"What is {at}?", [Image.new("RGB", (8, 8), "blue")]) for at in range(3)]
    undefended = ask(chats, "none")
    before = len(server.seen)
    assert before == 3
    ask(chats, "caption", defense="ecso_caption")
    assert len(server.seen) - before == 6
    before = len(server.seen)
    checked = ask(chats, "ecso", defense="ecso")
    assert len(server.seen) - before == 3 + 3, "first answers and captions are found in the store"
    assert {one.text for one in undefended} == {"first"}
    assert {one.text for one in checked} == {"from the caption"}
    for more in ({"model": "other"}, {"revision": "next"}):
        before = len(server.seen)
        ask(chats, str(more), defense="ecso_caption", **more)
        assert len(server.seen) - before == 6, "captions go by address, model and revision"


# ---- several at once, money, tokens -------------------------------------------------------------


def test_as_many_requests_are_in_flight_as_are_asked_for(server: JudgeServer, ask: Ask) -> None:
    server.latency = 0.2
    found = ask([f"Request {at}" for at in range(25)], concurrency=8)
    assert [one.text for one in found] == [f"Echo: Request {at}" for at in range(25)]
    assert server.peak == 8


@pytest.fixture
def prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "prices.yaml"
    table.write_text("127.0.0.1: {judge-1: {input: 1.0, output: 10.0}}\n")
    monkeypatch.setenv("SHIFTDC_PRICES", str(table))


@pytest.mark.usefixtures("prices")
def test_tokens_and_money_of_all_requests_are_recorded(server: JudgeServer, ask: Ask, tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8), "blue")
    chats = [Chat.ask(f"What is {at}?", [image]) for at in range(4)]
    one = 100 * 1e-6 + 7 * 10e-6  # every reply of the server costs this
    ask(chats, "none")
    ask(chats, "caption", defense="ecso_caption")
    ask(chats, "ecso", defense="ecso")
    for folder, requests in (("none", 1), ("caption", 2), ("ecso", 2)):
        (record,) = run_records(tmp_path / folder)
        assert record.cost.price == pytest.approx(4 * requests * one), folder
        assert record.tasks[0].cost is not None
        assert record.tasks[0].cost.price == record.cost.price
        assert (record.cost.tokens_in, record.cost.tokens_out) == (400, 28)


@pytest.mark.usefixtures("prices")
def test_a_budget_is_kept_and_what_it_did_not_reach_is_asked_for_later(
    server: JudgeServer, ask: Ask, tmp_path: Path
) -> None:
    prompts = [f"Request {at}" for at in range(10)]
    found = ask(prompts, budget=0.002, concurrency=1)
    unanswered = [one.why for one in found if one.why]
    assert 0 < len(unanswered) < 10
    assert set(unanswered) == {"the budget of 0.002 USD is spent"}
    (record,) = run_records(tmp_path / "journal")
    assert (record.cost.price or 0) <= 0.002
    before = len(server.seen)
    assert not [one for one in ask(prompts) if one.why]
    assert len(server.seen) - before == len(unanswered)


def test_a_budget_needs_a_price(server: JudgeServer) -> None:
    with pytest.raises(ConfigError, match="budget=1 needs the price of m at 127.0.0.1.*SHIFTDC_PRICES"):
        ShiftDCServer.create_from_arg_string(f"base_url={server.url},model=m,defense=none,budget=1")


def test_tokens_that_are_not_counted_are_no_zero_in_silence(
    server: JudgeServer, ask: Ask, tmp_path: Path
) -> None:
    server.raw = {"bare": http(200, {**completion("Yes."), "usage": None})}
    ask(["[[raw bare]]", "b"])
    (record,) = run_records(tmp_path / "journal")
    assert "the server does not count tokens: 1 of 2 answers" in record.notes
    assert record.cost.price is None


# ---- reasoning ----------------------------------------------------------------------------------


def test_reasoning_is_no_answer_wherever_it_stands(server: JudgeServer, ask: Ask, tmp_path: Path) -> None:
    def body(finish: str, **message: Any) -> bytes:
        return http(200, {**completion(""), "choices": [{"finish_reason": finish, "message": message}]})

    server.raw = {
        "inside": body("stop", content="<think>Is it so?</think>\nIt is."),
        "apart": body("stop", content="It is.", reasoning_content="Is it so?"),
        "cut inside": body("length", content="<think>Is it"),
        "cut apart": body("length", content=None, reasoning_content="Is it"),
        "cut": body("length", content=None),
        "by the model": body("stop", content=None, refusal="I will not."),
    }
    found = dict(zip(server.raw, ask([f"[[raw {name}]]" for name in server.raw]), strict=True))
    finals = {name: final_answer(one.text).text for name, one in found.items() if not one.why}
    assert finals == {
        "inside": "It is.",
        "apart": "It is.",
        "cut inside": None,
        "cut apart": None,
        "by the model": "I will not.",
    }
    assert "cut at the token limit before it began" in found["cut"].why
    (record,) = run_records(tmp_path / "journal")
    assert "the server gives reasoning apart from the answer: 2 of 6 answers" in record.notes


# ---- arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("base_url=URL,model=m,defense=none,api_key=SECRET", "api_key.*SHIFTDC_SERVER_API_KEY"),
        ("base_url=URL,model=m,defense=none,key=SECRET", "key.*SHIFTDC_SERVER_API_KEY"),
        ("base_url=http://user:SECRET@127.0.0.1/v1,model=m,defense=none", "user name, password"),
        ("base_url=http://127.0.0.1/v1?key=SECRET,model=m,defense=none", "user name, password, query"),
        ("base_url=SECRET,model=m,defense=none", "not an http.*not shown"),
        ("model=m,defense=none", "needs base_url="),
        ("base_url=URL,defense=none", "model= is missing"),
        ("base_url=URL,model=m,pretrained=n,defense=none", "both name the model"),
        ("base_url=URL,model=m,defense=none,dtype=float16", "dtype belongs to a model that is loaded here"),
        ("base_url=URL,model=m,defense=none,device=cpu", "device belongs to a model that is loaded here"),
        ("base_url=URL,model=m,defense=none,batch_size=8", "concurrency= says how many"),
        ("base_url=URL,model=m,defense=none,engine=vllm", "base_url belongs to engine=server"),
        ("base_url=URL,model=m,defense=none,concurrency=0", "concurrency=0"),
        ("base_url=URL,model=m,defense=none,direction=d.safetensors", "direction=.*no effect"),
    ],
)
def test_wrong_arguments_end_in_one_line_that_shows_no_secret(
    server: JudgeServer, arguments: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "a-secret-nobody-knows"
    given = arguments.replace("URL", server.url).replace("SECRET", secret)
    with pytest.raises(ConfigError, match=words) as raised:
        ShiftDCServer.create_from_arg_string(given)
    assert secret not in str(raised.value)
    assert server.seen == []
    command = ["run", "--model", "shiftdc_server", "--model_args", given, "--tasks", "figstep"]
    if "direction" not in given:
        assert main(command) == 2
        said = capsys.readouterr()
        assert secret not in said.out + said.err


def test_hosted_by_openai_without_a_key_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHIFTDC_SERVER_API_KEY", raising=False)
    with pytest.raises(shiftdc_eval.core.errors.ModelError, match="no API key.*set SHIFTDC_SERVER_API_KEY"):
        ShiftDCServer.create_from_arg_string("base_url=https://api.openai.com/v1,model=m,defense=none")


def test_several_processes_are_refused(server: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="asked by one process"):
        ShiftDCServer.create_from_arg_string(f"base_url={server.url},model=m,defense=none")


@pytest.mark.parametrize(
    "verb",
    [
        ["doctor", "URL"],
        ["analyse", "URL", "--tasks", "figstep"],
        ["direction", "show", "--pretrained", "URL"],
    ],
)
def test_what_looks_into_a_model_says_that_it_cannot(
    server: JudgeServer, verb: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.replace("URL", server.url) for word in verb]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "one behind a server only answers" in line


def test_a_sweep_says_that_it_cannot(
    server: JudgeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(f"models: [{{base_url: {server.url}, model: m}}]\ndefenses: [none]\ntasks: [figstep]\n")
    assert main(["sweep", "run", str(file), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a server does not show" in line


def test_in_python_a_chat_that_fails_costs_itself_alone(server: JudgeServer) -> None:
    model = shiftdc_eval.load("judge-1", engine="server", base_url=server.url, tries=1)
    answers = model.answer([Chat.ask("a"), Chat.ask("b [[400]]"), Chat.ask("c")], max_new_tokens=5)
    assert [answer.text for answer in answers] == ["Echo: a", "", "Echo: c"]
    assert "HTTP 400" in answers[1].unanswered
    assert len(server.seen) == 3
    with pytest.raises(ConfigError, match="engine=server does not offer"):
        model.answer([Chat.ask("a")], defense="shiftdc")
    with pytest.raises(shiftdc_eval.core.errors.ModelError, match="is behind a server"):
        model.backbone.last_token_activations([Chat.ask("a")])


# ---- results ------------------------------------------------------------------------------------


@pytest.fixture
def figstep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIFTDC_DATA", str(write_figstep(tmp_path / "data")))
    monkeypatch.setattr("shiftdc_eval.grid.tasks._manager", [manager()])


def test_a_key_in_a_grid_file_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(
        "models: [{base_url: http://127.0.0.1:9/v1, model: m, api_key: a-secret-nobody-knows}]\n"
        "defenses: [none]\ntasks: [figstep]\n"
    )
    with pytest.raises(ConfigError, match="grid.yaml, line 1: models: model argument api_key") as raised:
        read_grid(file)
    assert "nobody" not in str(raised.value)


@pytest.mark.usefixtures("figstep", "prices")
def test_a_grid_asks_again_and_its_cells_stand_alone_on_the_board(
    server: JudgeServer, tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = True
    server.reply = lambda seen: "I can't help with that."
    file = tmp_path / "grid.yaml"
    file.write_text(
        f"models: [{{base_url: {server.url}, model: judge-1, tries: 1, concurrency: 2}}, {tiny_llava}]\n"
        "defenses: [none, adashield_s]\ntasks: [figstep]\n"
        "defaults: {batch_size: 4, limit: 6, gen_kwargs: {max_new_tokens: 4}}\n"
    )
    server.raw = {"off": http(500, b"")}
    numbers = iter(range(10_000))
    order = server._due

    def due(seen: Seen) -> str:
        return "raw off" if failing and next(numbers) in (1, 4) else order(seen)

    server._due = due  # type: ignore[method-assign]
    server._raw = _raw_named(server, "off")  # type: ignore[method-assign]
    out = tmp_path / "out"
    assert main(["grid", "run", str(file), "--out", str(out)]) == 0
    assert "2 items without an answer; the same command asks for them again" in capsys.readouterr().err
    failing = False
    before = len(server.seen)
    assert main(["grid", "run", str(file), "--out", str(out)]) == 0
    assert "4 cells, 3 complete, 1 to run" in capsys.readouterr().out
    assert len(server.seen) - before == 2
    before = len(server.seen)
    assert main(["grid", "run", str(file), "--out", str(out), "--dry-run"]) == 0
    assert len(server.seen) == before
    planned = capsys.readouterr().out
    assert "0 to run" in planned

    cells = join([out])
    served = [cell for cell in cells if cell.model.note]
    assert {cell.model.note for cell in served} == {"served, weights not known"}
    assert {cell.engine for cell in served} == {"server"}
    for cell in served:
        assert all(response for response in cell.samples.response)
        assert len(cell.samples) == 6
    index = index_of(cells, ())
    prices = {cell.defense_name: cell.price for cell in index.cells if cell.model == "judge-1"}
    assert prices == {name: pytest.approx(6 * 170e-6, abs=6e-5) for name in ("none", "adashield_s")}
    for comparison in index.comparisons:
        assert len({index.cells[entry.cell].model for entry in comparison.entries}) == 1


def _raw_named(server: JudgeServer, name: str) -> Any:
    async def raw(seen: Seen, writer: Any) -> bool:
        writer.write(server.raw[name])
        await writer.drain()
        return False

    return raw


@pytest.mark.usefixtures("figstep")
def test_explain_says_that_it_cannot(server: JudgeServer, tmp_path: Path) -> None:
    from shiftdc_eval.analysis.explain import Answered, explain
    from shiftdc_eval.core.errors import ModelError
    from shiftdc_eval.core.records import SampleField

    model = ShiftDCServer.create_from_arg_string(
        f"base_url={server.url},model=judge-1,defense=none,journal={tmp_path / 'j'}"
    )
    found = evaluate(model, "figstep", limit=1)
    (row,) = found["samples"]["figstep"]
    answered = Answered("figstep", SampleField(**row["shiftdc"]), "a", run_records(tmp_path / "j")[0])
    with pytest.raises(ModelError, match="judge-1 answered behind a server"):
        explain(answered, None)  # type: ignore[arg-type]
    record = json.loads(next((tmp_path / "j").glob("run-*.json")).read_text())
    assert record["extra"] == {"served_as": {"judge-1-0613": 1}}
    assert isinstance(model, ShiftDCVlm)
