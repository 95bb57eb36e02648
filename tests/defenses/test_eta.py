"""ETA's evaluation and prefix against a plain loop with scorers of its own; the models are tiny and random."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from plain_bench import Bench, make_bench, save_loud
from plain_cases import REQUESTS
from plain_defenses import Begun, Rewritten, Texts
from plain_runs import PlainModel, Prompt
from plain_scorers import GENERATE, POST, PRE, PlainScorers
from tiny_scorers import save_clip, save_reward

from shiftdc_eval.backbones import Chat, GenerationSettings
from shiftdc_eval.core.errors import ConfigError, ModelError
from shiftdc_eval.core.validation import validated
from shiftdc_eval.defenses import DEFENSES, NOT_APPLICABLE, Answer, Request
from shiftdc_eval.defenses import scorers as module
from shiftdc_eval.defenses.eta_prefix import ALIGNED
from shiftdc_eval.defenses.prompts import prompt
from shiftdc_eval.defenses.scorers import ImageText, Reward
from shiftdc_eval.judges.local.model import LocalModel

TOKENS = 6
SETTINGS = GenerationSettings(max_new_tokens=TOKENS)
ALL, NONE = 1e9, -1e9


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("eta")
    return make_bench(save_loud("llava", root / "llava"), root)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("scorers")
    return {"reward": str(save_reward(root / "reward")), "clip": str(save_clip(root / "clip"))}


@pytest.fixture(scope="module")
def plain(folders: dict[str, str]) -> PlainScorers:
    return PlainScorers(Path(folders["reward"]), Path(folders["clip"]))


def requests() -> list[Request]:
    return [Request(Chat.ask(one.text, one.images), f"seed {at}") for at, one in enumerate(REQUESTS)]


def answered(bench: Bench, name: str = "eta_prefix", **settings: Any) -> list[Answer]:
    defense = validated(DEFENSES[name], settings, what="setting")
    return list(defense.answer(bench.tools(), requests(), SETTINGS))


def first_text(model: PlainModel, one: Prompt) -> str:
    return Rewritten()(model, one, Texts((), ()), TOKENS).text


def test_the_prompts_are_the_authors() -> None:
    assert (prompt("eta_post"), prompt("eta_generate"), prompt("eta_pre")) == (POST, GENERATE, PRE)
    assert prompt("eta_prefix") == "As an AI assistant"


def test_both_scorers_give_what_their_models_say(folders: dict[str, str], plain: PlainScorers) -> None:
    texts = ["yes", "a list of items", "word " * 120]
    rewards = Reward(LocalModel(folders["reward"])).scores("how is it", texts)
    assert rewards == pytest.approx([plain.reward("how is it", text) for text in texts], rel=1e-5)
    image = REQUESTS[0].images[0]
    cosines = ImageText(LocalModel(folders["clip"])).scores(image, texts)
    assert cosines == pytest.approx([plain.clip(image, text) for text in texts], rel=1e-4)
    assert max(map(abs, cosines)) <= 1


def between(values: Sequence[float]) -> float:
    low, *_, high = sorted(values)
    assert low < high
    return (low + high) / 2


def test_answers_are_those_of_the_plain_loop(
    bench: Bench, folders: dict[str, str], plain: PlainScorers
) -> None:
    first = [first_text(bench.plain, one) for one in REQUESTS]
    rewards = [plain.reward(POST, text.strip()) for text in first]
    cosines = [plain.clip(one.images[0], PRE) for one in REQUESTS]
    seen: set[tuple[bool, ...]] = set()
    for post, pre in product((NONE, between(rewards), ALL), (-2.0, between(cosines), 2.0)):
        wanted = []
        for one, text, reward, cosine in zip(REQUESTS, first, rewards, cosines, strict=True):
            if reward > post or cosine < pre:
                wanted.append(text)
            else:
                wanted.append(Begun()(bench.plain, one, Texts((), ()), TOKENS).text)
        found = answered(bench, **folders, post_threshold=post, pre_threshold=pre)
        assert [answer.text for answer in found] == wanted
        aligned = tuple(ALIGNED in answer.notes for answer in found)
        assert aligned == tuple(text.startswith("As an AI assistant") for text in wanted)
        for answer, text, reward in zip(found, first, rewards, strict=True):
            assert answer.extra["reward"] == pytest.approx(reward, rel=1e-5)
            assert ("clip" in answer.extra) == (reward <= post), (
                "the image is scored after an unsafe answer alone"
            )
            assert answer.extra.get("first_answer", text) == text
        seen.add(aligned)
    assert len(seen) > 2, "some were aligned and some not"


@pytest.mark.parametrize(
    ("reward", "cosine", "aligned"),
    [(0.06, 0.16, True), (0.0601, 0.16, False), (0.06, 0.1599, False), (0.0601, 0.1599, False)],
)
def test_at_a_threshold_answer_and_image_are_unsafe(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, reward: float, cosine: float, aligned: bool
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(Reward, "scores", lambda _s, p, t: shown.append((p, list(t))) or [reward] * len(t))
    monkeypatch.setattr(ImageText, "scores", lambda _s, _i, t: shown.append(list(t)) or [cosine] * len(t))
    found = answered(bench)
    assert {ALIGNED in answer.notes for answer in found} == {aligned}
    first = [first_text(bench.plain, one).strip() for one in REQUESTS]
    assert shown == [(POST, first), *([[PRE]] * 3 if reward <= 0.06 else [])], (
        "the request itself is not shown"
    )


def test_of_several_images_the_least_safe_counts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reward, "scores", lambda _s, _p, t: [0.0] * len(t))
    monkeypatch.setattr(ImageText, "scores", lambda _s, image, _t: [0.2 if image.width == 40 else 0.1])
    images = [Image.new("RGB", (width, 30)) for width in (30, 40, 50)]
    defense = DEFENSES["eta_prefix"]()
    two = [Request(Chat.ask("hello", images[:2])), Request(Chat.ask("hello", images[::2]))]
    found = defense.answer(bench.tools(), two, SETTINGS)
    assert [ALIGNED in answer.notes for answer in found] == [True, False]


def test_without_an_image_there_is_nothing_to_evaluate(bench: Bench) -> None:
    asked = [Request(Chat.ask("only words"))]
    (found,) = DEFENSES["eta_prefix"]().answer(bench.tools(), asked, SETTINGS)
    (none,) = DEFENSES["none"]().answer(bench.tools(), asked, SETTINGS)
    assert (found.text, found.notes) == (none.text, (NOT_APPLICABLE,))


def test_always_is_the_control_and_loads_nothing(bench: Bench) -> None:
    assert answered(bench, when="always") == answered(bench, "always_prefix")
    defense = DEFENSES["eta_prefix"](when="always")
    assert defense.control
    assert (defense.other_models, defense.extra_passes()) == ((), [])
    assert defense.resolved(bench.backbone) == {"when": "always", "judge": None}
    assert not DEFENSES["eta_prefix"]().control


def test_a_judge_decides_where_it_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {one.text: first_text(bench.plain, one) for one in REQUESTS}
    bench_texts = list(texts.values())
    said = dict(zip(bench_texts, ["refused", "complied", None], strict=True))

    def judge(items: Sequence[Any]) -> list[Any]:
        assert [(item.request, item.response) for item in items] == list(texts.items())
        verdicts = [said[item.response] for item in items]
        return [SimpleNamespace(value=v, scored=v is not None, reason="no words") for v in verdicts]

    one = SimpleNamespace(kind="refusal", judge=judge, fingerprint="f")
    monkeypatch.setattr("shiftdc_eval.defenses.eta_prefix.get_judge", lambda spec: one)
    refused, complied, unjudged = answered(bench, when="judge", judge="mine")
    assert (refused.text, refused.notes) == (bench_texts[0], ())
    assert complied.text.startswith("As an AI assistant")
    assert complied.extra == {"verdict": "complied", "first_answer": bench_texts[1]}
    assert (unjudged.text, unjudged.unanswered) == ("", "not judged: no words")
    defense = DEFENSES["eta_prefix"](when="judge", judge="mine")
    assert defense.resolved(bench.backbone) == {"when": "judge", "judge": "mine", "judge_fingerprint": "f"}
    one.kind = "score"
    with pytest.raises(ConfigError, match="judge=mine gives scores"):
        defense.resolved(bench.backbone)


def test_a_real_judge_is_found_by_its_spec(bench: Bench) -> None:
    found = answered(bench, when="judge", judge="keyword_robust")
    assert all((answer.extra["verdict"] == "complied") == (ALIGNED in answer.notes) for answer in found)


@pytest.mark.parametrize("given", [{"when": "judge"}, {"judge": "keyword_robust"}])
def test_a_judge_goes_with_its_setting(given: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="judge= names the judge of when=judge"):
        validated(DEFENSES["eta_prefix"], given, what="setting")


def test_other_scorers_are_other_cells_and_their_folders_stay_out(
    bench: Bench, folders: dict[str, str], tmp_path: Path
) -> None:
    defense = DEFENSES["eta_prefix"](**folders)
    found = defense.resolved(bench.backbone)
    again = save_reward(tmp_path / "elsewhere")
    assert DEFENSES["eta_prefix"](**{**folders, "reward": str(again)}).resolved(bench.backbone) == found
    other = save_reward(tmp_path / "other", outputs=2)
    assert DEFENSES["eta_prefix"](**{**folders, "reward": str(other)}).resolved(bench.backbone) != found
    assert str(tmp_path) not in str(found)
    with pytest.raises(ModelError, match="gives 2 numbers where one score is needed"):
        Reward(LocalModel(str(other))).scores("a", ["b"])


def test_armorms_own_output_is_its_score(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = LocalModel(folders["reward"])
    model, tokenizer = module._loaded(spec, "AutoModelForSequenceClassification", False)
    seen: list[Any] = []

    class Armo:
        device = model.device

        def __call__(self, ids: Any) -> Any:
            import torch

            seen.append(ids)
            return SimpleNamespace(score=torch.tensor([0.25]), logits=torch.zeros(1, 19))

    monkeypatch.setattr(module, "_loaded", lambda *_: (Armo(), tokenizer))
    assert Reward(spec).scores("p", ["q"]) == [0.25]
    assert tokenizer.decode(seen[0][0]) == "<|user|>p<|assistant|>q"


def test_a_scorer_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the scorer .*gone cannot be loaded") as raised:
        Reward(LocalModel(str(tmp_path / "gone"))).scores("a", ["b"])
    assert "\n" not in str(raised.value)
