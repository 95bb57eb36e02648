import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_harness import answers, evaluate, write_figstep
from lmms_eval.api.model import lmms
from warm import Warm

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings, ModelSpec, load_backbone
from shiftdc_eval.core.errors import ConfigError, DirectionError, ModelError
from shiftdc_eval.core.paths import cache_dir, journal_dir
from shiftdc_eval.core.records import RunRecord
from shiftdc_eval.plugin.adapter import ShiftDCLlava, ShiftDCVlm
from shiftdc_eval.plugin.run_record import Tally

TASK = "figstep"
GEN = "max_new_tokens=8"
pytestmark = pytest.mark.usefixtures("few_pairs")


@pytest.fixture(scope="module")
def backbone(tiny_llava: Path) -> Backbone:
    return load_backbone(ModelSpec(str(tiny_llava), device="cpu"))


@pytest.fixture(autouse=True)
def figstep_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIFTDC_DATA", str(write_figstep(tmp_path / "data")))


def model(backbone: Backbone, **given: Any) -> ShiftDCVlm:
    settings = {"pretrained": backbone.name, "defense": "none", "batch_size": 4, **given}
    if settings["defense"] == "shiftdc":
        settings.setdefault("caption_max_new_tokens", 6)
    return ShiftDCVlm(backbone=backbone, **settings)


def run_records() -> list[RunRecord]:
    return [
        RunRecord.model_validate_json(path.read_text()) for path in sorted(journal_dir().glob("run-*.json"))
    ]


@pytest.mark.parametrize("defense", ["none", "shiftdc"])
def test_answers_are_the_same_at_every_batch_size(backbone: Backbone, tmp_path: Path, defense: str) -> None:
    found = [
        answers(
            evaluate(
                model(backbone, defense=defense, batch_size=size, journal=tmp_path / str(size)),
                TASK,
                gen_kwargs=GEN,
            ),
            TASK,
        )
        for size in (1, 4, 8)
    ]
    assert len(found[0]) == 9
    assert found[0] == found[1] == found[2]


def test_a_run_leaves_a_complete_record(backbone: Backbone) -> None:
    results = evaluate(model(backbone, defense="shiftdc", alpha=0.5), TASK, gen_kwargs=GEN)
    (record,) = run_records()
    assert {row["shiftdc"]["run"] for row in results["samples"][TASK]} == {record.id}
    assert (record.defense, record.settings["alpha"], record.settings["layers"]) == ("shiftdc", 0.5, "2-3")
    assert record.direction_sha256 is not None
    assert record.revision == backbone.revision
    (task,) = record.tasks
    assert (task.name, task.answered, task.generation["max_new_tokens"]) == (TASK, 9, 8)
    assert task.cost is not None
    assert (task.cost.samples, task.cost.tokens_out) == (9, record.cost.tokens_out)
    assert record.cost.samples == 9
    assert (record.cost.captions_made, task.cost.captions_made) == (9, 9)
    assert record.cost.tokens_out > 0
    assert record.versions["transformers"]


def test_captions_of_several_tasks_are_counted_for_the_run_alone() -> None:
    tally = Tally(captions_made=3, captions_reused=1)
    for task in ("one", "two"):
        answer = {"task": task, "seconds": 1.0, "tokens_in": 5, "tokens_out": 2, "notes": [], "text": "Yes."}
        tally.count(answer, reused=False)
    cost = tally.task_cost("one")
    assert (cost.samples, cost.captions_made, cost.captions_reused) == (1, None, None)
    assert (tally.cost().captions_made, tally.cost().captions_reused) == (3, 1)


class Parrot(lmms):  # type: ignore[misc]
    """Another lmms-eval model."""

    is_simple = False

    def generate_until(self, requests: list[Any]) -> list[str]:
        return ["Sure." for _ in requests]

    def loglikelihood(self, requests: list[Any]) -> Any:
        raise NotImplementedError

    def generate_until_multi_round(self, requests: list[Any]) -> Any:
        raise NotImplementedError


def test_another_model_in_the_same_process_does_not_get_our_run_id(backbone: Backbone) -> None:
    ours = evaluate(model(backbone), TASK, gen_kwargs=GEN)
    theirs = evaluate(Parrot(), TASK, gen_kwargs=GEN)
    again = evaluate(model(backbone), TASK, gen_kwargs=GEN)
    found = [{row["shiftdc"]["run"] for row in result["samples"][TASK]} for result in (ours, theirs, again)]
    assert found[1] == {None}
    assert len(found[0]) == len(found[2]) == 1
    assert found[0] != found[2]
    assert None not in found[0] | found[2]


def test_items_that_the_direction_was_fitted_on_are_declared_as_leakage(
    backbone: Backbone, tmp_path: Path
) -> None:
    pairs = [{"unsafe": f"forge pass {n}", "safe": f"paint kite {n}"} for n in range(12)]
    pairs[3]["unsafe"] = "METHODS to do thing 2, of kind 5!"
    contrast = tmp_path / "contrast.jsonl"
    contrast.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    evaluate(model(backbone, defense="shiftdc", contrast=contrast), TASK, gen_kwargs=GEN)
    (record,) = run_records()
    assert record.notes == ["leakage: 1 items stand in the contrast set of the direction"]


def test_a_second_run_reuses_every_answer_and_makes_no_forward_pass(backbone: Backbone) -> None:
    first = evaluate(model(backbone, defense="shiftdc"), TASK, gen_kwargs=GEN)
    passes = backbone.forward_passes
    second = evaluate(model(backbone, defense="shiftdc"), TASK, gen_kwargs=GEN)
    assert backbone.forward_passes == passes
    assert answers(first, TASK) == answers(second, TASK)
    assert [record.cost.reused for record in run_records()] == [0, 9] or [
        r.cost.reused for r in run_records()
    ] == [9, 0]


def test_a_changed_configuration_reuses_nothing(backbone: Backbone) -> None:
    evaluate(model(backbone, defense="shiftdc"), TASK, gen_kwargs=GEN)
    changes: list[dict[str, Any]] = [
        {"defense": "none"},
        {"alpha": 0.5},
        {"layers": "3"},
        {"random_seed": 1},
        {"seed": 1},
        {"system_prompt": "be safe"},
    ]
    for change in changes:
        passes = backbone.forward_passes
        evaluate(model(backbone, **{"defense": "shiftdc", **change}), TASK, gen_kwargs=GEN)
        assert backbone.forward_passes > passes, change
    assert [record.cost.reused for record in run_records()] == [0] * 7


def test_other_generation_settings_reuse_nothing_and_a_larger_limit_reuses_the_rest(
    backbone: Backbone,
) -> None:
    evaluate(model(backbone), TASK, gen_kwargs=GEN, limit=4)
    evaluate(model(backbone), TASK, gen_kwargs="max_new_tokens=5", limit=4)
    evaluate(model(backbone), TASK, gen_kwargs=GEN)
    by_time = sorted(run_records(), key=lambda record: record.cost.reused)
    assert [record.cost.reused for record in by_time] == [0, 0, 4]


def test_reused_captions_count_with_the_seconds_they_took(backbone: Backbone, tmp_path: Path) -> None:
    settings = {"defense": "shiftdc", "caption_max_new_tokens": 40}
    evaluate(model(backbone, **settings, journal=tmp_path / "a"), TASK, gen_kwargs=GEN)
    again = model(backbone, **settings, journal=tmp_path / "b")
    evaluate(again, TASK, gen_kwargs=GEN)
    first, second = (
        RunRecord.model_validate_json(next((tmp_path / name).glob("run-*.json")).read_text()).cost
        for name in "ab"
    )
    assert (first.captions_made, second.captions_made, second.captions_reused) == (9, 0, 9)
    assert second.seconds >= again.tools.captions.reused_seconds > 0


@pytest.mark.parametrize("what", ["answers", "captions"])
def test_seconds_of_other_hardware_are_not_told(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    settings = {"defense": "shiftdc", "caption_max_new_tokens": 6}
    first, second = tmp_path / "a", tmp_path / ("a" if what == "answers" else "b")
    evaluate(model(backbone, **settings, journal=first), TASK, gen_kwargs=GEN, limit=4)
    monkeypatch.setattr("shiftdc_eval.backbones.machine.hardware", lambda devices: "another machine")
    evaluate(model(backbone, **settings, journal=second, batch_size=1), TASK, gen_kwargs=GEN)
    records = [RunRecord.model_validate_json(path.read_text()) for path in tmp_path.rglob("run-*.json")]
    moved, stayed = sorted(records, key=lambda record: record.hardware != "another machine")
    assert (stayed.cost.samples, stayed.cost.timed) == (4, 4)
    assert moved.cost.samples == 9
    assert moved.cost.timed == moved.tasks[0].cost.timed == 5  # type: ignore[union-attr]
    assert moved.notes == ["timing: 4 of 9 answers rest on work of other hardware and have no seconds"]
    assert moved.cost.seconds > 0
    assert (moved.batch_size, moved.attention) == (1, backbone.attention)


def test_an_interrupted_run_keeps_its_finished_batches(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted = model(backbone)
    whole = interrupted.defense.answer
    calls = 0

    def failing(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("power cut")
        return whole(*arguments)

    object.__setattr__(interrupted.defense, "answer", failing)
    with pytest.raises(RuntimeError, match="power cut"):
        evaluate(interrupted, TASK, gen_kwargs=GEN)
    assert run_records() == [], "a run record means that every answer was produced"
    evaluate(model(backbone), TASK, gen_kwargs=GEN)
    assert [record.cost.reused for record in run_records()] == [8]


def test_running_out_of_memory_halves_the_batch_and_goes_on(backbone: Backbone) -> None:
    straight = answers(evaluate(model(backbone), TASK, gen_kwargs=GEN), TASK)
    small = model(backbone, batch_size="auto", max_batch_size=8, journal=journal_dir() / "other")
    whole = small.defense.answer
    sizes = []

    def limited(tools: Any, requests: Any, settings: Any) -> Any:
        sizes.append(len(requests))
        if len(requests) > 2:
            raise torch.OutOfMemoryError("no room")
        return whole(tools, requests, settings)

    object.__setattr__(small.defense, "answer", limited)
    assert answers(evaluate(small, TASK, gen_kwargs=GEN), TASK) == straight
    assert sizes[:3] == [8, 4, 2]


def test_the_longest_requests_are_answered_first(backbone: Backbone, tmp_path: Path) -> None:
    asked = model(backbone, batch_size=2, journal=tmp_path / "run")
    answer_all = asked._answer_all
    lengths: dict[str, tuple[int, int]] = {}

    def unlike(samples: Any, *rest: Any) -> Any:
        samples = [replace(sample, length=(1, 40 * at % 9)) for at, sample in enumerate(samples)]
        lengths.update((sample.key, sample.length) for sample in samples)
        return answer_all(samples, *rest)

    object.__setattr__(asked, "_answer_all", unlike)
    evaluate(asked, TASK, gen_kwargs=GEN)
    (journal,) = (tmp_path / "run").glob("journal-*.jsonl")
    order = [json.loads(line)["key"] for line in journal.read_text().splitlines()[1:]]
    assert [lengths[key] for key in order] == sorted(lengths.values(), reverse=True)


def test_one_request_that_does_not_fit_ends_in_one_line(backbone: Backbone) -> None:
    full = model(backbone, batch_size=1)

    def never(*_: Any) -> Any:
        raise torch.OutOfMemoryError("no room")

    object.__setattr__(full.defense, "answer", never)
    with pytest.raises(ModelError, match="out of memory on a single request"):
        evaluate(full, TASK, gen_kwargs=GEN)


def test_unsupported_kinds_of_request_say_so(backbone: Backbone) -> None:
    with pytest.raises(ModelError, match="loglikelihood"):
        model(backbone).loglikelihood([])
    with pytest.raises(ModelError, match="multi-round"):
        model(backbone).generate_until_multi_round([])


def test_model_args_win_over_the_commands_own_options(tiny_llava: Path) -> None:
    made = ShiftDCVlm.create_from_arg_string(
        f"pretrained={tiny_llava},defense=shiftdc,layers=1-2,batch_size=4,device=cpu",
        {"batch_size": 1, "max_batch_size": None, "device": "cuda"},
    )
    assert made.batch_size == 4
    assert made.settings["layers"] == "1-2"


def test_shiftdc_llava_is_llava_under_shiftdc() -> None:
    with pytest.raises(ModelError, match="llava-hf/llava-1.5-7b-hf"):
        ShiftDCLlava.create_from_arg_string("device=cpu")
    with pytest.raises(ConfigError, match="defense= is missing"):
        ShiftDCVlm.create_from_arg_string("pretrained=x,device=cpu")


def test_a_direction_of_another_model_is_refused_before_any_answer(
    backbone: Backbone, tmp_path: Path
) -> None:
    from tiny_models import save_tiny_llava

    evaluate(model(backbone, defense="shiftdc"), TASK, gen_kwargs=GEN, limit=1)
    (fitted,) = (cache_dir() / "directions").glob("*.safetensors")
    other = load_backbone(ModelSpec(str(save_tiny_llava(tmp_path / "other", seed=1)), device="cpu"))
    with pytest.raises(DirectionError, match="was made for weights"):
        model(other, defense="shiftdc", direction=fitted)
    model(backbone, defense="shiftdc", direction=fitted)


def test_sampled_repeats_differ_and_are_found_again(backbone: Backbone) -> None:
    settings = {"gen_kwargs": "do_sample=True,temperature=1.5,max_new_tokens=8", "repeats": 3, "limit": 2}
    first = evaluate(model(backbone), TASK, **settings)
    passes = backbone.forward_passes
    second = evaluate(model(backbone), TASK, **settings)
    assert backbone.forward_passes == passes
    found = [row["resps"] for row in first["samples"][TASK]]
    assert found == [row["resps"] for row in second["samples"][TASK]]
    assert any(len({str(r) for r in responses[0]}) > 1 for responses in found)


def test_sigkill_after_the_second_batch_loses_nothing_finished(
    tiny_llava: Path, warm: Warm, tmp_path: Path
) -> None:
    arguments = f"pretrained={tiny_llava},defense=shiftdc,caption_max_new_tokens=4,batch_size=2,device=cpu"
    child = warm.start("warm:adapter", arguments, 2, folder=tmp_path)
    while child.output().count("batch\n") < 2 and child.running():
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert run_records() == []
    again = warm.run("warm:adapter", arguments, 0, folder=tmp_path)
    assert again.status == 0, again.output()[-2000:]
    assert again.output().count("batch\n") == 3, "9 items in batches of 2: two were done, three were left"
    (record,) = run_records()
    assert record.cost.reused == 4
    (journal,) = journal_dir().glob("journal-*.jsonl")
    keys = [json.loads(line)["key"] for line in journal.read_text().splitlines()[1:]]
    assert len(keys) == len(set(keys)) == 9


def test_the_engine_is_recorded(backbone: Backbone) -> None:
    evaluate(model(backbone, defense="shiftdc"), TASK, gen_kwargs=GEN)
    assert [record.engine for record in run_records()] == ["transformers"]


def test_answers_of_16_bit_keep_the_key_that_plain_had(tiny_llava: Path) -> None:
    loaded = load_backbone(ModelSpec(str(tiny_llava), device="cpu", dtype="bfloat16"))
    assert "engine" not in model(loaded)._config()


def test_the_batch_size_is_found_from_free_memory_on_a_gpu(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert backbone.fitting_rows(Chat.ask("hello"), 8) is None, "there is no GPU memory to look at"
    monkeypatch.setattr(
        type(backbone), "fitting_rows", lambda self, chat, tokens: 3 if tokens == 6 + 2 else 5
    )
    chosen = model(backbone, batch_size="auto", defense="shiftdc")
    samples: list[Any] = []
    answer_all = chosen._answer_all
    monkeypatch.setattr(
        chosen, "_answer_all", lambda asked, *rest: samples.extend(asked) or answer_all(asked, *rest)
    )
    evaluate(chosen, TASK, gen_kwargs=GEN)
    assert chosen.batch_size == 3
    chosen.batches.halve(backbone, torch.OutOfMemoryError())
    chosen.batches.fit(samples[0], chosen.defense, GenerationSettings(max_new_tokens=8), backbone)
    assert chosen.batch_size == 1, "a batch size that did not fit came back"
    capped = model(backbone, batch_size="auto", max_batch_size=2, journal=journal_dir() / "capped")
    evaluate(capped, TASK, gen_kwargs="max_new_tokens=5")
    assert capped.batch_size == 2
