"""An item that cannot be answered is unscored with its reason, everywhere and after a resume; the others go on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_harness import evaluate, write_figstep
from alone import SEEING
from hand_made_requests import through_the_adapter
from PIL import Image
from tiny_families import save_family

from shiftdc_eval.backbones import Backbone, Chat, ModelSpec, load_backbone
from shiftdc_eval.backbones.transformers_backbone import TransformersBackbone
from shiftdc_eval.core.errors import DirectionError, ModelError
from shiftdc_eval.core.paths import journal_dir
from shiftdc_eval.core.records import RunRecord
from shiftdc_eval.defenses import DEFENSES
from shiftdc_eval.defenses.defended_model import DefendedModel
from shiftdc_eval.judges.registry import get_judge
from shiftdc_eval.judges.rejudge import rejudge
from shiftdc_eval.plugin.adapter import ShiftDCVlm
from shiftdc_eval.plugin.doctor import check_defenses
from shiftdc_eval.tasks.judging import ask, judge_item, make_answer

pytestmark = pytest.mark.usefixtures("few_pairs")
TASK = "figstep"
WIDE = "figstep/5_2"
REFUSED = (
    r"cannot encode a chat with images of 3000 x 2 pixels: absolute aspect ratio must be smaller than 200"
)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> TransformersBackbone:
    """Its processor refuses what is more than 200 times as wide as high."""
    folder = save_family("qwen2_vl", tmp_path_factory.mktemp("qwen") / "qwen")
    return load_backbone(ModelSpec(str(folder), device="cpu"))  # type: ignore[return-value]


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    data = write_figstep(tmp_path / "data")
    monkeypatch.setenv("SHIFTDC_DATA", str(data))
    return data / "figstep" / "images" / "SafeBench"


def run(backbone: Backbone, defense: str = "none", **given: Any) -> dict[str, dict[str, Any]]:
    short = {
        name: 4
        for name in ("caption_max_new_tokens", "tell_max_new_tokens")
        if name in DEFENSES[defense].model_fields
    }
    model = ShiftDCVlm(backbone, pretrained=backbone.name, defense=defense, batch_size=4, **short, **given)
    found = evaluate(model, TASK, gen_kwargs="max_new_tokens=4")
    return {row["shiftdc"]["item"]: row for row in found["samples"][TASK]}


def record() -> RunRecord:
    newest = max(journal_dir().glob("run-*.json"), key=lambda path: path.stat().st_mtime_ns)
    return RunRecord.model_validate_json(newest.read_text())


@pytest.mark.parametrize("defense", ["none", "shiftdc", "ecso"])
def test_an_image_that_the_processor_refuses_costs_its_own_item_alone(
    qwen: TransformersBackbone, images: Path, defense: str
) -> None:
    Image.new("RGB", (3000, 2), "white").save(images / "query_ForbidQI_5_2_6.png")
    for passes in (1, 0):
        before = qwen.forward_passes
        rows = run(qwen, defense)
        assert (qwen.forward_passes > before) == bool(passes), "the second run finds all in the journal"
        failed = {item: row for item, row in rows.items() if row["shiftdc_item"]["response"] is None}
        assert list(failed) == [WIDE]
        verdicts = failed[WIDE]["shiftdc"]["verdicts"].values()
        assert len(rows) == 9
        assert verdicts
        assert {verdict["value"] for verdict in verdicts} == {None}
        (reason,) = {verdict["reason"] for verdict in verdicts}
        assert REFUSED in reason
        assert failed[WIDE]["shiftdc"]["unanswered"] == reason
        assert "no answer (its processor refuses it): 1 of 9 answers" in record().notes
    others = [row["shiftdc"]["verdicts"].values() for item, row in rows.items() if item != WIDE]
    assert all("processor" not in verdict["reason"] for verdicts in others for verdict in verdicts)


def test_the_reason_is_also_that_of_every_judge_of_a_stored_run(
    qwen: Backbone, images: Path, tmp_path: Path
) -> None:
    import json

    Image.new("RGB", (3000, 2), "white").save(images / "query_ForbidQI_5_2_6.png")
    rows = run(qwen)
    path = tmp_path / f"20261130_000000_samples_{TASK}.jsonl"
    path.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows.values()))
    (outcome,) = rejudge([path], [get_judge("keyword:list=gcg;as=mine")])
    assert outcome.judged == 9
    field = {
        row["shiftdc"]["item"]: row["shiftdc"] for row in map(json.loads, path.read_text().splitlines())
    }[WIDE]
    assert field["verdicts"]["mine"]["value"] is None
    assert field["verdicts"]["mine"]["reason"] == field["unanswered"]


def test_where_no_image_can_be_taken_the_run_ends_in_one_line(qwen: Backbone, images: Path) -> None:
    for path in images.iterdir():
        Image.new("RGB", (3000, 2), "white").save(path)
    for _ in range(2):
        with pytest.raises(ModelError, match=f"none of 9 requests could be answered: .*{REFUSED}") as raised:
            run(qwen)
        assert "\n" not in str(raised.value)


@contextmanager
def overflowing(backbone: Any) -> Iterator[None]:
    """What a black image gives the language model is beyond every number."""
    dark: list[torch.Tensor] = []

    def seen(_module: Any, args: Any, kwargs: Any) -> None:
        pixels = args[0] if args else kwargs["pixel_values"]
        dark[:] = [pixels.amax((1, 2, 3)) < 0]

    def given(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.where(dark[0][:, None, None], torch.inf, output)

    inner = backbone.model.model
    hooks = [
        inner.vision_tower.register_forward_pre_hook(seen, with_kwargs=True),
        inner.multi_modal_projector.register_forward_hook(given),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("defense", SEEING)
def test_logits_that_are_not_finite_are_no_answer_under_any_defense(
    tiny_llava: Path, defense: str, tmp_path: Path
) -> None:
    backbone = load_backbone(ModelSpec(str(tiny_llava), device="cpu"))
    model = DefendedModel(backbone, batch_size=4)
    few = {"scored": 2} if "scored" in DEFENSES[defense].model_fields else {}
    if defense not in ("ecso_caption",):
        fitting = [Chat.ask("fits what is fitted"), Chat.ask("and", [Image.new("RGB", (30, 30), "white")])]
        model.answer(fitting, defense=defense, max_new_tokens=1, **few)
    chats = [
        Chat.ask("What is shown?", [Image.new("RGB", (30, 30), shade)]) for shade in ("white", "black", "red")
    ]
    short = {
        name: 2
        for name in ("caption_max_new_tokens", "tell_max_new_tokens")
        if name in DEFENSES[defense].model_fields
    }
    with overflowing(backbone):
        answers = model.answer(chats, defense=defense, max_new_tokens=2, **short, **few)
    assert [bool(answer.unanswered) for answer in answers] == [False, True, False]
    assert "no number: the logits of" in answers[1].unanswered
    assert "are not finite in float32" in answers[1].unanswered
    assert (answers[1].text, answers[1].tokens_out) == ("", 0)


def test_float16_overflow_ends_a_run_and_the_doctor_finds_it(tiny_llava: Path, images: Path) -> None:
    backbone: Any = load_backbone(ModelSpec(str(tiny_llava), device="cpu", dtype="float16"))
    with torch.no_grad():
        backbone.model.lm_head.weight.mul_(1e5)
    with pytest.raises(ModelError, match="none of 9 requests could be answered: no number: .* float16; load"):
        run(backbone)
    (checked,) = check_defenses(backbone, ["none"])
    assert "FAILED: no number: the logits" in checked.problem


def test_every_scorer_of_a_utility_task_leaves_such_an_item_unscored() -> None:
    from shiftdc_eval.core.run_ids import Made
    from shiftdc_eval.tasks.exact_match import EXACT_MATCH
    from shiftdc_eval.tasks.example import Example
    from shiftdc_eval.tasks.judging import StandIn
    from shiftdc_eval.tasks.mme.task import OFFICIAL, STRICT

    example = Example(id="a", question="a", prompt="p", request="r", reference="yes")
    item = judge_item(example, make_answer("", 0, Made("no number: because")))
    for judge in (OFFICIAL, STRICT, EXACT_MATCH, StandIn("llm_mmvet", "score", "not named")):
        (verdict,) = ask(judge, [item])
        assert (verdict.value, verdict.reason) == (None, "no number: because")


def test_a_prompt_longer_than_the_context_is_flagged_counted_and_told_once(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tiny_models import save_tiny_llava

    backbone: Any = load_backbone(ModelSpec(str(save_tiny_llava(tmp_path / "llava")), device="cpu"))
    chats = [Chat.ask("a"), Chat.ask("a " * 300), Chat.ask("b " * 300)]
    backbone.model.config.get_text_config().max_position_embeddings = 200
    with caplog.at_level(logging.WARNING):
        through_the_adapter(backbone, chats, tmp_path / "journal", defense="none", max_new_tokens=2)
    told = [entry.getMessage() for entry in caplog.records if "longer than" in entry.getMessage()]
    assert told == [
        f"2 prompts are longer than the 200 tokens that {backbone.name} was made for; their items have the flag "
        "over_context"
    ]
    (path,) = (tmp_path / "journal").glob("run-*.json")
    assert RunRecord.model_validate_json(path.read_text()).notes == ["over_context: 2 of 3 answers"]
    backbone.model.config.get_text_config().max_position_embeddings = 5
    rows = run(backbone)
    assert all("over_context" in row["shiftdc"]["flags"] for row in rows.values())


@pytest.mark.parametrize("defense", ["shiftdc", "refusal_direction"])
def test_what_cannot_be_fitted_ends_the_run_at_once(tiny_llava: Path, images: Path, defense: str) -> None:
    """It is not blamed on one item after the other, each of which would try to fit again."""
    backbone: Any = load_backbone(ModelSpec(str(tiny_llava), device="cpu", dtype="float16"))
    with torch.no_grad():
        backbone.model.model.language_model.layers[1].mlp.down_proj.weight.mul_(1e6)
    with pytest.raises(DirectionError, match="activations hold NaN or infinity"):
        run(backbone, defense)
    with torch.no_grad():
        backbone.model.model.language_model.layers[1].mlp.down_proj.weight.zero_()
        backbone.model.lm_head.weight.mul_(1e5)
    if defense == "refusal_direction":
        with pytest.raises(ModelError, match="nothing can be fitted on the contrast set: no number"):
            run(backbone, defense)


def test_what_holds_no_number_is_not_kept_as_fitted(tiny_llava: Path) -> None:
    """A file of NaN in the cache would end every later run."""
    backbone = load_backbone(ModelSpec(str(tiny_llava), device="cpu"))
    model, asked = DefendedModel(backbone), [Chat.ask("What is it?", [Image.new("RGB", (30, 30), "white")])]
    with (
        overflowing(backbone),
        pytest.raises(DirectionError, match="NaN or infinity, so nothing can be fitted"),
    ):
        model.answer(asked, defense="recentred_refusal", max_new_tokens=1)
    (answer,) = model.answer(asked, defense="recentred_refusal", max_new_tokens=1)
    assert not answer.unanswered
