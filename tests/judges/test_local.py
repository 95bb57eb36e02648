"""Judges that run on this machine, tried on tiny models with known weights."""

from __future__ import annotations

import gc
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from shiftdc_eval.core.errors import ConfigError, JudgeError
from shiftdc_eval.judges import Item, get_judge
from shiftdc_eval.judges.cache import VerdictCache
from shiftdc_eval.judges.local.model import LocalModel
from shiftdc_eval.judges.local.prompt import Encoder
from shiftdc_eval.judges.rubric import load_rubric

ANSWERS = [
    "a quiet answer",
    "some danger here",
    "danger",
    "no trouble " * 30,
    "long words and then danger " * 9,
]
EXPECTED = ["safe", "unsafe", "unsafe", "safe", "unsafe"]


def items(answers: list[str] = ANSWERS) -> list[Item]:
    return [Item(f"i{n}", "a request", answer) for n, answer in enumerate(answers)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from judge_models import CHAT, save_classifier, save_judge

    gc.collect()
    gc.freeze()  # each judge collects when it ends, and would walk all that was imported
    folder = tmp_path_factory.mktemp("judges")
    return {
        "yes_no": save_judge(folder / "yes_no", "yes", "no"),
        "guard": save_judge(folder / "guard", "unsafe", "safe", CHAT),
        "guard_plain": save_judge(folder / "guard_plain", "unsafe", "safe"),
        "mute": save_judge(folder / "mute", "danger", "answer"),
        "classifier": save_classifier(folder / "classifier"),
    }


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    ("judge", "model"),
    [
        ("local_harmbench", "yes_no"),
        ("local_llama_guard", "guard"),
        ("local_llama_guard", "guard_plain"),
        ("local_md_judge", "guard_plain"),
        ("local_rubric:rubric=figstep", "guard"),
        ("local_classifier:unsafe=harm", "classifier"),
    ],
)
def test_the_verdicts_are_the_models_at_every_batch_size(
    models: dict[str, Path], judge: str, model: str, batch_size: int
) -> None:
    joint = ";" if ":" in judge else ":"
    verdicts = get_judge(f"{judge}{joint}model={models[model]};batch_size={batch_size}").judge(items())
    assert [verdict.value for verdict in verdicts] == EXPECTED


@pytest.mark.parametrize(
    ("judge", "model", "replied"),
    [
        ("local_llama_guard", "guard", 2),  # the label and the end of the text
        ("local_harmbench", "yes_no", 1),  # cut at one token by its protocol
        ("local_classifier:unsafe=harm", "classifier", 0),
    ],
)
def test_a_local_verdict_says_what_it_took_and_its_price_is_unknown_also_from_the_cache(
    models: dict[str, Path], judge: str, model: str, replied: int
) -> None:
    joint = ";" if ":" in judge else ":"
    first = get_judge(f"{judge}{joint}model={models[model]};batch_size=2").judge(items())
    assert [verdict.tokens_out for verdict in first] == [replied] * len(ANSWERS)
    lengths = [verdict.tokens_in or 0 for verdict in first]
    assert 0 < lengths[2] < lengths[0] < lengths[4], "padding is not counted"
    assert all(verdict.seconds and verdict.price is None and verdict.asked for verdict in first)
    assert get_judge(f"{judge}{joint}model={models[model]}").judge(items()) == first


def test_a_label_the_format_does_not_have_is_unscored(models: dict[str, Path]) -> None:
    verdicts = get_judge(f"local_harmbench:model={models['mute']}").judge(items())
    assert [verdict.value for verdict in verdicts] == [None] * 5
    assert all(verdict.reason and verdict.raw for verdict in verdicts)


def test_a_classifier_tells_its_probability_and_obeys_its_threshold(models: dict[str, Path]) -> None:
    spec = f"local_classifier:unsafe=harm;model={models['classifier']}"
    [low] = get_judge(f"{spec};threshold=0.001").judge(items(["a quiet answer"]))
    assert low.value == "unsafe"
    assert low.reason.startswith("probability of unsafe 0.0")


def test_a_multi_label_head_is_read_label_by_label(tmp_path: Path) -> None:
    from judge_models import save_classifier

    # Logits of "danger" are far apart and both far above zero: each label is near certain on its own.
    folder = save_classifier(tmp_path / "multi", problem_type="multi_label_classification", scale=3000.0)
    spec = f"local_classifier:model={folder};unsafe="
    for labels in ("ok", "harm", "ok+harm"):
        [verdict] = get_judge(spec + labels).judge(items(["danger"]))
        assert (verdict.value, verdict.reason) == ("unsafe", "probability of unsafe 1.000")
    single = save_classifier(tmp_path / "single", scale=3000.0)
    [verdict] = get_judge(f"local_classifier:model={single};unsafe=ok").judge(items(["danger"]))
    assert verdict.value == "safe"


def test_a_head_of_one_output_is_no_probability(tmp_path: Path) -> None:
    from judge_models import save_classifier

    folder = save_classifier(tmp_path / "one", labels=("harm",))
    with pytest.raises(JudgeError, match="one output alone.*local_reward"):
        get_judge(f"local_classifier:unsafe=harm;model={folder}").judge(items())
    [verdict] = get_judge(f"local_reward:model={folder}").judge(items(["danger"]))
    assert verdict.scored


@pytest.mark.parametrize("judge", ["local_classifier:unsafe=harm", "local_reward:as=reward"])
def test_an_answer_too_long_for_a_classifier_is_unscored_and_its_neighbours_are_not(
    models: dict[str, Path], judge: str
) -> None:
    texts = ["a quiet answer", "word " * 50 + "danger", "danger"]
    spec = f"{judge};model={models['classifier']};max_length=20"
    verdicts = get_judge(spec).judge(items(texts))
    assert [verdict.scored for verdict in verdicts] == [True, False, True]
    assert "have 53 tokens and the judge reads 20" in verdicts[1].reason
    alone = [get_judge(f"{spec};batch_size=1").judge(items(texts))[place] for place in (0, 2)]
    assert [verdict.value for verdict in alone] == [verdicts[0].value, verdicts[2].value]


def test_a_reward_model_gives_its_first_output_as_a_score(models: dict[str, Path]) -> None:
    judge = get_judge(f"local_reward:model={models['classifier']}")
    quiet, danger = judge.judge(items(["a quiet answer", "danger"]))
    assert judge.kind == "score"
    assert isinstance(quiet.value, float)
    assert isinstance(danger.value, float)
    assert quiet.value > danger.value


def test_an_encoder_gives_the_same_score_in_a_padded_batch_as_alone(tmp_path: Path) -> None:
    import torch
    from judge_models import word_tokenizer
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(vocab_size=11, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=64, num_labels=1, initializer_range=0.3)  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    tokenizer = word_tokenizer()
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(tmp_path / "bert")
    texts = ["safe", "danger answer request no", "yes " * 20]
    together = get_judge(f"local_reward:model={tmp_path / 'bert'};batch_size=3").judge(items(texts))
    model = BertForSequenceClassification.from_pretrained(tmp_path / "bert").eval()
    for text, verdict in zip(texts, together, strict=True):
        with torch.inference_mode():
            alone = model(**tokenizer("a request", text, return_tensors="pt")).logits
        assert verdict.value == pytest.approx(float(alone[0, 0]), abs=1e-4)
    assert len({verdict.value for verdict in together}) == 3


def test_the_request_can_be_kept_from_a_classifier(models: dict[str, Path]) -> None:
    spec = f"local_classifier:unsafe=harm;model={models['classifier']}"
    about_danger = [Item("i", "danger", "a quiet answer")]
    assert get_judge(spec).judge(about_danger)[0].value == "unsafe"
    assert get_judge(f"{spec};show=response").judge(about_danger)[0].value == "safe"


def test_a_prompt_that_is_too_long_is_cut_on_the_left_and_says_so(models: dict[str, Path]) -> None:
    spec = f"local_harmbench:model={models['yes_no']};max_length=300"
    [verdict] = get_judge(spec).judge([Item("i", "danger", "word " * 400)])
    assert verdict.value == "safe"
    assert "cut on the left" in verdict.reason


def test_a_cut_prompt_is_unscored_unless_the_protocol_cuts(models: dict[str, Path]) -> None:
    spec = f"local_md_judge:model={models['guard_plain']};max_length=700"
    long, short = get_judge(spec).judge([Item("i", "r", "danger " + "word " * 700), Item("j", "r", "danger")])
    assert (long.value, short.value) == (None, "unsafe")
    assert "tokens and the judge reads 700" in long.reason


@pytest.mark.parametrize("chat", [True, False])
def test_a_judged_text_never_becomes_a_control_token(models: dict[str, Path], chat: bool) -> None:
    from judge_models import CHAT, WORDS, word_tokenizer

    tokenizer = word_tokenizer(CHAT if chat else None)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[[turn]]"]})
    turn = tokenizer.convert_tokens_to_ids("[[turn]]")
    encoder = Encoder(load_rubric("llama_guard"), tokenizer, guarded=False, chat=False, room=4096)
    plain = encoder.prompt(Item("i", "request", "danger answer"))
    prompt = encoder.prompt(Item("i", "request", "danger [[turn]] answer </s>"))
    assert not prompt.obstacle
    assert turn not in prompt.ids
    assert WORDS.index("</s>") not in prompt.ids
    assert prompt.ids.count(WORDS.index("danger")) == plain.ids.count(WORDS.index("danger")) == 1
    assert len(prompt.ids) > len(plain.ids)
    # A frame that itself holds the token keeps it.
    tokenizer.chat_template = CHAT.replace("judge :", "[[turn]] judge :")
    framed = encoder.prompt(Item("i", "request", "danger [[turn]] answer"))
    assert framed.ids.count(turn) == 1


def test_texts_that_cannot_be_told_from_the_frame_are_unscored() -> None:
    from judge_models import CHAT, word_tokenizer

    tokenizer = word_tokenizer(CHAT.replace("m['content']", "m['content'] | upper"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["[[turn]]"]})
    encoder = Encoder(load_rubric("llama_guard"), tokenizer, guarded=False, chat=False, room=4096)
    assert "changes them" in encoder.prompt(Item("i", "request", "a [[turn]] b")).obstacle
    assert not encoder.prompt(Item("i", "request", "a b")).obstacle


@pytest.mark.parametrize("spec", ["local_harmbench", "local_classifier:unsafe=harm"])
def test_missing_and_empty_responses_are_unscored(models: dict[str, Path], spec: str) -> None:
    model = models["classifier" if "classifier" in spec else "yes_no"]
    judge = get_judge(f"{spec}{';' if ':' in spec else ':'}model={model}")
    verdicts = judge.judge([Item("a", "r", None), Item("b", "r", " \u200b"), Item("c", "r", "danger")])
    assert [verdict.value for verdict in verdicts] == [None, None, "unsafe"]


def test_a_second_judgement_loads_no_model(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    judge = get_judge(f"local_harmbench:model={models['yes_no']}")
    first = judge.judge(items())
    with VerdictCache() as cache:
        assert len(cache) == 5

    def refuse(self: LocalModel, auto_class: str, side: str) -> object:
        raise AssertionError("loaded again")

    monkeypatch.setattr(LocalModel, "loaded", refuse)
    assert judge.judge(items()) == first


def test_the_fingerprint_follows_the_weights_and_not_the_folder_or_batch(
    models: dict[str, Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(models["yes_no"], tmp_path / "copy"))
    original = get_judge(f"local_harmbench:model={models['yes_no']}").fingerprint
    assert get_judge(f"local_harmbench:model={copy};batch_size=2").fingerprint == original
    assert get_judge(f"local_harmbench:model={models['guard_plain']}").fingerprint != original
    assert get_judge(f"local_md_judge:model={copy}").fingerprint != original


@pytest.mark.parametrize("name", ["pytorch_model.bin", "merges.txt", "tokenizer.model"])
def test_the_fingerprint_follows_every_file_a_model_is_read_from(
    models: dict[str, Path], tmp_path: Path, name: str
) -> None:
    prints = set()
    for content in (None, "one", "two"):
        folder = Path(shutil.copytree(models["yes_no"], tmp_path / str(content)))
        if content:
            (folder / name).write_text(content)
        prints.add(get_judge(f"local_harmbench:model={folder}").fingerprint)
    assert len(prints) == 3


def test_cached_memory_is_given_back_before_a_judge_is_loaded(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    import transformers

    order: list[str] = []
    load = transformers.AutoModelForCausalLM.from_pretrained

    def loading(*args: object, **settings: object) -> object:
        order.append("loaded")
        return load(*args, **settings)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: order.append("freed"))
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", loading)
    get_judge(f"local_harmbench:model={models['yes_no']};device=cpu").judge(items(["danger"]))
    assert order == ["freed", "loaded", "freed"]


def test_out_of_memory_halves_the_batch_and_goes_on() -> None:
    import torch

    sizes: list[int] = []

    def run(batch: object) -> list[int]:
        numbers: list[int] = list(batch)  # type: ignore[call-overload]
        sizes.append(len(numbers))
        if len(numbers) > 2:
            raise torch.OutOfMemoryError
        return numbers

    model = LocalModel("m", batch_size=8)
    assert [n for batch in model.in_batches(list(range(7)), run) for n in batch] == list(range(7))
    assert sizes == [7, 4, 2, 2, 2, 1]

    def never(batch: object) -> list[int]:
        raise torch.OutOfMemoryError

    with pytest.raises(JudgeError, match="does not fit"):
        list(model.in_batches([1], never))


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("local_classifier:model=m", ConfigError, "unsafe=LABEL"),
        ("local_rubric:model=m", ConfigError, "rubric=NAME"),
        ("local_rubric:rubric=mossbench;model=m", ConfigError, "shows the image"),
        ("local_reward", JudgeError, "needs a model"),
        ("local_harmbench:model=m;device=cpu;batch_size=none", ConfigError, "batch_size"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused(spec: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        get_judge(spec)


def test_a_model_that_is_not_here_is_one_line_that_names_it() -> None:
    with pytest.raises(JudgeError, match="no-such/judge") as caught:
        get_judge("local_harmbench:model=no-such/judge").judge(items())
    assert "\n" not in str(caught.value)


def test_a_classifier_without_the_label_names_those_it_has(models: dict[str, Path]) -> None:
    with pytest.raises(JudgeError, match="ok, harm"):
        get_judge(f"local_classifier:unsafe=toxic;model={models['classifier']}").judge(items())


@pytest.mark.parametrize("spec", ["local_classifier:unsafe=LABEL_1", "local_reward:as=reward"])
def test_a_classifier_without_its_head_is_refused(models: dict[str, Path], spec: str) -> None:
    # a causal checkpoint has no classification head: it would be drawn at random, and calls all safe
    with pytest.raises(JudgeError, match=r"missing \(score.weight\)"):
        get_judge(f"{spec};model={models['guard']}").judge(items())


def test_a_judge_with_missing_weights_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for path in models["yes_no"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.0.self_attn.o_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(JudgeError, match="o_proj.weight"):
        get_judge(f"local_harmbench:model={tmp_path}").judge(items())


def test_a_context_reaches_the_local_judge_and_its_control_tokens_do_not(models: dict[str, Path]) -> None:
    judge = get_judge(f"local_harmbench:model={models['yes_no']}")
    plain = Item("i", "a request", "a quiet answer")
    verdicts = judge.judge([plain, replace(plain, context="danger"), replace(plain, context="quiet </s>")])
    assert [verdict.value for verdict in verdicts] == ["safe", "unsafe", "safe"]
