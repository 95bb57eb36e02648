"""ETA's evaluation and prefix against a plain loop with scorers of its own; the models are tiny and random."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from plain_bench import Bench, make_bench, save_loud
from plain_cases import REQUESTS
from plain_defenses import Begun, Rewritten, Texts
from plain_runs import PlainModel, Prompt, longer
from plain_scorers import GENERATE, POST, PRE, PlainScorers
from safetensors.torch import load_file, save_file
from tiny_scorers import save_clip, save_reward

from shiftdc_eval.backbones import Chat, GenerationSettings
from shiftdc_eval.backbones.interface import offered
from shiftdc_eval.backbones.server.backbone import ServerBackbone
from shiftdc_eval.core.errors import ConfigError, ModelError
from shiftdc_eval.core.model_spec import ModelArguments
from shiftdc_eval.core.validation import validated
from shiftdc_eval.defenses import DEFENSES, NOT_APPLICABLE, Answer, Request
from shiftdc_eval.defenses import scorers as module
from shiftdc_eval.defenses.answering import answered as safely
from shiftdc_eval.defenses.arguments import require
from shiftdc_eval.defenses.eta_prefix import ALIGNED
from shiftdc_eval.defenses.prompts import prompt
from shiftdc_eval.defenses.scorers import ImageText, Reward
from shiftdc_eval.judges.local.model import LocalModel
from shiftdc_eval.judges.verdict import Verdict

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


@pytest.mark.parametrize(
    ("scorer", "place"), [("reward", "score.weight"), ("clip", "visual_projection.weight")]
)
def test_a_score_that_is_no_number_is_no_safe_one(
    bench: Bench, folders: dict[str, str], tmp_path: Path, scorer: str, place: str
) -> None:
    broken = (save_reward if scorer == "reward" else save_clip)(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    save_file({**weights, place: weights[place] * torch.nan}, broken / "model.safetensors", {"format": "pt"})
    given = validated(
        DEFENSES["eta_prefix"], {**folders, scorer: str(broken), "post_threshold": ALL}, what=""
    )
    found = safely(given, bench.tools(), requests(), SETTINGS)
    assert {answer.text for answer in found} == {""}
    assert all("no number: a score is not finite" in answer.unanswered for answer in found)


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

    failed: dict[str, Any] = {"reason": "no words", "raw": "hm"}

    def judge(items: Sequence[Any]) -> list[Verdict]:
        assert [(item.request, item.response) for item in items] == list(texts.items())
        verdicts = [said[item.response] for item in items]
        return [Verdict(kind="refusal", value=v, **({} if v else failed)) for v in verdicts]

    one = SimpleNamespace(kind="refusal", judge=judge, fingerprint="f")
    monkeypatch.setattr("shiftdc_eval.defenses.eta_prefix.get_judge", lambda spec: one)
    refused, complied, unjudged = answered(bench, when="judge", judge="mine")
    assert (refused.text, refused.notes) == (bench_texts[0], ())
    assert complied.text.startswith("As an AI assistant")
    assert complied.extra == {
        "begun": "As an AI assistant",
        "verdict": "complied",
        "first_answer": bench_texts[1],
    }
    assert (unjudged.text, unjudged.unanswered, unjudged.blame) == ("", "not judged: no words", "item")
    failed |= {"raw": None, "seconds": 0.5}
    *_, silent = answered(bench, when="judge", judge="mine")
    assert silent.blame == "server", "a judge that did not reply is asked again at the next start"
    defense = DEFENSES["eta_prefix"](when="judge", judge="mine")
    assert defense.resolved(bench.backbone) == {"when": "judge", "judge": "mine", "judge_fingerprint": "f"}
    one.kind = "score"
    with pytest.raises(ConfigError, match="judge=mine gives scores"):
        defense.resolved(bench.backbone)


def test_a_real_judge_is_found_by_its_spec(bench: Bench) -> None:
    found = answered(bench, when="judge", judge="keyword_robust")
    assert all((answer.extra["verdict"] == "complied") == (ALIGNED in answer.notes) for answer in found)


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A model that ends sentences often, and answers sometimes."""
    root = tmp_path_factory.mktemp("talkative")
    loud = PlainModel(save_loud("llava", root / "llava"))
    with torch.no_grad():
        rows = loud.model.get_output_embeddings().weight
        rows[loud.processor.tokenizer.convert_tokens_to_ids(".")] *= 4.0
    loud.model.save_pretrained(root / "llava")
    return make_bench(root / "llava", root)


@dataclass(frozen=True)
class PlainETA:
    """Steps 4 and 5 of the specification, one candidate and one token at a time; text is tokenized anew a sentence."""

    scorers: PlainScorers
    candidates: int = 3
    beta: float = 1.5
    sentence_tokens: int = 70
    clip_from: int = 2
    """First sentence that CLIP looks at."""
    weight: Callable[[int], float] = lambda k: 1 / k
    ended_without_clip: bool = True
    prompt: str = GENERATE
    whole: bool = True
    """Whether the reward reads all of the answer so far."""

    def __call__(self, model: PlainModel, one: Prompt, seed: str, tokens: int) -> tuple[str, int, int]:
        """Text, tokens of what was kept, sentences."""
        text, used, sentences, over = "As an AI assistant", 0, 0, False
        while not over and used < tokens:
            room = min(self.sentence_tokens, tokens - used)
            found = [
                self.sentence(model, one, text, f"{seed}/{sentences}/{n}", room)
                for n in range(self.candidates)
            ]
            sentences += 1
            scores = [
                self.scorers.reward(self.prompt, (text * self.whole + said).strip()) for said, _, _ in found
            ]
            if sentences >= self.clip_from and not (
                self.ended_without_clip and any(ended for *_, ended in found)
            ):
                scores = [
                    score + self.weight(sentences) * self.scorers.clip(one.images[0], said.strip())
                    for score, (said, _, _) in zip(scores, found, strict=True)
                ]
            said, length, over = found[scores.index(max(scores))]
            text, used = text + said, used + length
        return text, used, sentences

    def sentence(
        self, model: PlainModel, one: Prompt, text: str, seed: str, room: int
    ) -> tuple[str, int, bool]:
        """One candidate: each token from the best few by softmax(logits / beta), drawn with seeded Gumbel noise."""
        words = model.processor.tokenizer
        start = longer(model.chat(one), words(f" {text}", add_special_tokens=False)["input_ids"])
        noise = torch.Generator().manual_seed(
            int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big") >> 1
        )
        ids: list[int] = []
        end = model.model.generation_config.eos_token_id
        while len(ids) < room and not (ids and (ids[-1] == end or words.decode(ids[-1:]).endswith("."))):
            logits = model.run(longer(start, ids)).logits.clone()
            logits[model.forbidden] = -torch.inf
            best = (logits / self.beta).topk(self.candidates)
            uniform = torch.rand(len(logits), generator=noise).clamp(1e-30, 1 - 1e-7)
            drawn = best.values - torch.log(-torch.log(uniform[best.indices]))
            ids.append(int(best.indices[drawn.argmax()]))
        before = words(text, add_special_tokens=False)["input_ids"]
        said = words.decode([*before, *ids], skip_special_tokens=True)[len(words.decode(before)) :]
        return said, len(ids), ids[-1] == end


LONG = GenerationSettings(max_new_tokens=24)
ALWAYS = {"post_threshold": ALL, "pre_threshold": -2.0}


@pytest.fixture(scope="module")
def written(talkative: Bench, folders: dict[str, str]) -> list[Answer]:
    """All three requests found unsafe and answered by ETA, in one batch."""
    defense = DEFENSES["eta"](**folders, **ALWAYS, topk=3)
    return list(defense.answer(talkative.tools(), requests(), LONG))


def test_sentences_are_chosen_as_the_plain_loop_chooses_them(
    talkative: Bench, plain: PlainScorers, written: list[Answer]
) -> None:
    loop = PlainETA(plain)
    wanted = [loop(talkative.plain, one, f"seed {at}", 24) for at, one in enumerate(REQUESTS)]
    assert [(a.text, a.tokens_out, a.extra["sentences"]) for a in written] == wanted
    assert max(sentences for *_, sentences in wanted) > 2, "CLIP had a say"
    assert len({tokens for _, tokens, _ in wanted}) > 1
    for answer in written:
        assert answer.notes == (ALIGNED,)
        assert answer.extra["sampled_tokens"] >= answer.tokens_out


WRONG: dict[str, dict[str, Any]] = {
    "the reward reads the evaluation's prompt": {"prompt": POST},
    "the reward reads the sentence alone": {"whole": False},
    "CLIP has no say": {"clip_from": 99},
    "CLIP's weight does not fall": {"weight": lambda k: 1.0},
    "another temperature": {"beta": 1.0},
    "greedy": {"beta": 1e-6},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_misreading_of_eta_is_noticed(
    talkative: Bench, plain: PlainScorers, written: list[Answer], wrong: str
) -> None:
    loop = replace(PlainETA(plain), **WRONG[wrong])
    found = [loop(talkative.plain, one, f"seed {at}", 24)[0] for at, one in enumerate(REQUESTS)]
    assert found != [answer.text for answer in written]


def test_a_safe_answer_is_left_alone_and_costs_one_reward(bench: Bench, folders: dict[str, str]) -> None:
    found = answered(bench, "eta", **folders, post_threshold=NONE)
    assert [answer.text for answer in found] == [first_text(bench.plain, one) for one in REQUESTS]
    assert all(set(answer.extra) == {"reward"} for answer in found)


def test_no_answer_of_eta_depends_on_its_batch(
    talkative: Bench, folders: dict[str, str], written: list[Answer]
) -> None:
    defense = DEFENSES["eta"](**folders, **ALWAYS, topk=3)
    alone = [defense.answer(talkative.tools(), [one], LONG)[0] for one in requests()]
    assert [answer.text for answer in alone] == [answer.text for answer in written]


def test_eta_says_what_it_costs_and_where_sentences_end(bench: Bench, folders: dict[str, str]) -> None:
    defense = DEFENSES["eta"](**folders)
    assert len(defense.extra_passes()) == 1 + 4, "the first answer, and four of five candidates"
    assert (defense.topk, defense.beta, defense.post_threshold, defense.pre_threshold) == (5, 1.5, 0.06, 0.16)
    assert "ends in '.', or after 70 tokens" in defense.resolved(bench.backbone)["sentence_ends"]
    with pytest.raises(ConfigError, match="when"):
        validated(DEFENSES["eta"], {"when": "always"}, what="setting")


def test_an_answer_can_stop_after_a_sentence(talkative: Bench) -> None:
    chats = [request.chat for request in requests()]
    whole = talkative.backbone.generate(chats, LONG)
    cut = talkative.backbone.generate(chats, replace(LONG, stop_after="."))
    words = talkative.plain.processor.tokenizer
    for one, other in zip(whole, cut, strict=True):
        ends = [at for at, token in enumerate(one.ids) if words.decode([token]).endswith(".")]
        assert other.ids == (one.ids[: ends[0] + 1] if ends else one.ids)
        assert other.ended == (other.ids[-1] == words.eos_token_id)
    assert any(one.ids != other.ids for one, other in zip(whole, cut, strict=True))
    assert "stop_after" not in LONG.key(), "other answers keep their keys"


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
            seen.append(ids)
            return SimpleNamespace(score=torch.tensor([0.25]), logits=torch.zeros(1, 19))

    monkeypatch.setattr(module, "_loaded", lambda *_: (Armo(), tokenizer))
    assert Reward(spec).scores("p", ["q"]) == [0.25]
    assert tokenizer.decode(seen[0][0]) == "<|user|>p<|assistant|>q"


def test_a_scorer_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the scorer .*gone cannot be loaded") as raised:
        Reward(LocalModel(str(tmp_path / "gone"))).scores("a", ["b"])
    assert "\n" not in str(raised.value)


def test_a_server_that_continues_answers_runs_the_prefix_and_not_the_sentences() -> None:
    spec = ModelArguments(pretrained="m", engine="server", base_url="http://127.0.0.1:9/v1", continues=True)
    assert DEFENSES["eta_prefix"].needs <= offered(spec)
    with pytest.raises(ConfigError, match="defense=eta .*needs stop_after, which engine=server does not"):
        require(DEFENSES["eta"](), offered(spec), "server")
    with pytest.raises(ModelError, match="cannot be asked to stop after a text"):
        ServerBackbone(spec).generate([Chat.ask("x")], GenerationSettings(stop_after="."))


def test_the_code_that_a_reward_model_brings_along_is_part_of_its_name(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    names = set()
    for at, code in enumerate(("score = 1", "score = 2", "score = 2")):
        (tmp_path / str(at)).mkdir()
        (tmp_path / str(at) / "modeling.py").write_text(code)
        given = DEFENSES["eta_prefix"](reward=str(tmp_path / str(at)), clip=str(tmp_path / "clip"))
        names.add(given.resolved(bench.backbone)["reward"])
    assert len(names) == 2
