"""HiddenDetect: its score, layers and threshold against plain loops; what it answers; the gate in front of a defense."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from plain_cases import write_contrast
from sklearn.metrics import auc

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings, ModelSpec, load_backbone
from shiftdc_eval.backbones.interface import ENGINES
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.defenses import DEFENSES, Answer, Request, Settings, Tools
from shiftdc_eval.defenses.arguments import chosen, require
from shiftdc_eval.defenses.base import REFUSED_BY_DETECTOR, SENT_ON
from shiftdc_eval.defenses.caption_store import CaptionStore
from shiftdc_eval.defenses.directions import Directions
from shiftdc_eval.defenses.hidden_detect import HiddenDetect, aware_layers, threshold_at
from shiftdc_eval.defenses.none import NoDefense
from shiftdc_eval.defenses.passes import Pass
from shiftdc_eval.defenses.refusal_words import ContrastCosines, word_ids
from shiftdc_eval.defenses.registry import BUILT_IN

WORDS = [
    "Sorry", "sorry", "unfortunately", "unfortunate", "sadly", "explicit", "deadly", "crim", "criminal", "illegal",
    "dangerous", "harmful", "warning", "alarm", "caution", "shame", "conspiracy", "Subject", "contrary", "shouldn",
]  # fmt: skip
REFUSAL = "I'm sorry, I can't assist with that."
SETTINGS = GenerationSettings(max_new_tokens=6)
SHORT = {"caption_max_new_tokens": 4}


@pytest.fixture(scope="module")
def backbone(tiny_llava: Path) -> Backbone:
    return load_backbone(ModelSpec(str(tiny_llava), device="cpu"))


@pytest.fixture(scope="module")
def directions(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Directions:
    contrast = write_contrast(tmp_path_factory.mktemp("contrast") / "contrast.jsonl")
    return Directions(backbone, contrast=contrast)


@pytest.fixture
def tools(backbone: Backbone, directions: Directions) -> Tools:
    return Tools(backbone, CaptionStore(None), directions)


def batch() -> list[Request]:
    return [
        Request(Chat.ask("hello", [Image.new("RGB", (30, 30), "red")])),
        Request(Chat.ask("only words, but quite a few of them")),
        Request(Chat.ask("describe the image " * 5, [Image.new("RGB", (60, 30), "blue")])),
        Request(Chat.ask("hi")),
    ]


def texts(defense: Settings, tools: Tools, requests: list[Request] | None = None) -> list[str]:
    return [answer.text for answer in defense.answer(tools, requests or batch(), SETTINGS)]


def scores(defense: Settings, tools: Tools, requests: list[Request] | None = None) -> list[float]:
    found = defense.answer(tools, requests or batch(), SETTINGS)
    return [answer.extra["detector_score"] for answer in found]


@torch.no_grad()
def plain_cosines(backbone: Backbone, chat: Chat) -> list[float]:
    """The cosine at every layer, from the model's own logits of all hidden states: one prompt, no batch."""
    model, inputs = backbone.model, backbone.encode([chat]).inputs
    seen: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _, args, out: seen.append(out if torch.is_tensor(out) else out[0]))
        for layer in model.get_decoder().layers
    ]
    model(**inputs)
    for hook in hooks:
        hook.remove()
    wanted = torch.zeros(model.get_output_embeddings().weight.shape[0])
    for word in WORDS:
        wanted[backbone.tokenizer.encode(word, add_special_tokens=False)[0]] = 1
    found = []
    for states in seen:
        logits = model.lm_head(model.get_decoder().norm(states))[0, -1]
        found.append(float(torch.nn.functional.cosine_similarity(logits, wanted, dim=0)))
    return found


@pytest.mark.parametrize("layers", [(0, 3), (1, 2)])
def test_the_score_is_the_area_under_the_cosines_of_the_chosen_layers(
    backbone: Backbone, tools: Tools, layers: tuple[int, int]
) -> None:
    first, last = layers
    found = scores(HiddenDetect(layers=f"{first}-{last}", threshold=math.inf), tools)
    for request, score in zip(batch(), found, strict=True):
        curve = plain_cosines(backbone, request.chat)[first : last + 1]
        assert score == pytest.approx(auc(range(len(curve)), curve), abs=1e-5)


def test_the_words_stand_for_their_first_tokens_each_once(backbone: Backbone) -> None:
    first = {backbone.tokenizer.encode(word, add_special_tokens=False)[0] for word in WORDS}
    assert word_ids(backbone.tokenizer) == sorted(first)


def contrast(unsafe: list[float], safe: list[float], held_out: list[float]) -> ContrastCosines:
    rows = [torch.tensor([unsafe] * 2), torch.tensor([safe] * 3)]
    held = torch.tensor(held_out)[:, None].expand(-1, 2)
    return ContrastCosines(
        fit_safe=rows[1], fit_unsafe=rows[0], held_out_safe=held, held_out_unsafe=held + 1, contrast_sha256="c"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("difference", "layers"),
    [
        ([0.0, 0.3, 0.1, 0.4, 0.0, 0.2], [1, 2, 3]),
        ([0.3, 0.0, 0.0, 0.0, 0.0, 0.2], [0, 1]),
        ([0.0, 0.0, 0.0, 0.0, 0.3, 0.2], [4, 5]),
        ([0.0, 0.1, 0.1, 0.1, 0.1, 0.2], [4, 5]),
    ],
    ids=["a range with a gap", "one, the first", "one, the last but one", "none"],
)
def test_the_layers_are_the_first_to_the_last_that_beat_the_last_one(
    difference: list[float], layers: list[int]
) -> None:
    safe = [0.7, 0.1, 0.2, 0.3, 0.4, 0.5]
    unsafe = [one + more for one, more in zip(safe, difference, strict=True)]
    assert aware_layers(contrast(unsafe, safe, [0.0])) == layers


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.1, 0.29, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 20], ids=["with ties", "without"])
def test_a_fitted_threshold_refuses_at_most_the_share_and_no_lower_one_does(rate: float, steps: int) -> None:
    safe = np.round(np.random.default_rng(3).normal(size=100), steps).tolist()

    def refused(threshold: float) -> float:
        return sum(score > threshold for score in safe) / len(safe)

    found = threshold_at(safe, rate)
    assert refused(found) <= rate + 1e-12
    below = max(score for score in safe if score <= found)
    assert refused(below - 1e-9) > rate, "a threshold below the next score would refuse too many"


def test_fitted_layers_threshold_and_auroc_are_those_of_a_plain_loop(
    backbone: Backbone, directions: Directions, tools: Tools
) -> None:
    from plain_defenses import fit_texts
    from sklearn.metrics import roc_auc_score

    path = directions._source
    fitted, held_out = fit_texts(path), fit_texts(path, held_out=True)  # type: ignore[arg-type]

    def curves(side: tuple[str, ...]) -> np.ndarray:
        return np.array([plain_cosines(backbone, Chat.ask(text)) for text in side])

    fdv = curves(fitted.unsafe).mean(axis=0) - curves(fitted.safe).mean(axis=0)
    above = [layer for layer, value in enumerate(fdv) if value > fdv[-1]]
    first, last = (above[0], above[-1]) if above else (2, 3)
    last = max(last, first + 1)
    safe, unsafe = (
        [auc(range(last - first + 1), curve[first : last + 1]) for curve in curves(side)]
        for side in (held_out.safe, held_out.unsafe)
    )
    found = HiddenDetect().fitted(tools)
    assert found["layers"] == f"{first}-{last}"
    assert found["threshold"] == pytest.approx(max(safe), abs=1e-5), "of so few texts none may be refused"
    labels = [0] * len(safe) + [1] * len(unsafe)
    assert found["fitted"]["auroc"] == pytest.approx(roc_auc_score(labels, safe + unsafe), abs=1e-6)
    assert found["fitted"]["texts"] == len(labels)
    assert found["fitted"]["layers_above_last"] == len(above)
    loose = HiddenDetect(false_positives=0.5).fitted(tools)
    assert loose["threshold"] < found["threshold"]
    assert loose["fitted"]["refused_safe"] <= 0.5


def test_minus_infinity_refuses_everything_and_infinity_nothing(tools: Tools) -> None:
    refused = HiddenDetect(threshold=-math.inf).answer(tools, batch(), SETTINGS)
    assert [one.text for one in refused] == [REFUSAL] * 4
    assert {(one.notes, one.tokens_in, one.tokens_out) for one in refused} == {((REFUSED_BY_DETECTOR,), 0, 0)}
    assert texts(HiddenDetect(threshold=math.inf), tools) == texts(NoDefense(), tools)


def middle(tools: Tools) -> float:
    """A threshold that half of the batch exceeds."""
    return float(np.median(scores(HiddenDetect(threshold=0), tools)))


def test_the_order_of_the_batch_changes_nothing(tools: Tools) -> None:
    defense = HiddenDetect(threshold=middle(tools))
    order = [2, 0, 3, 1]
    mixed = [batch()[at] for at in order]
    whole = defense.answer(tools, batch(), SETTINGS)
    assert {REFUSAL} < {one.text for one in whole}, "some are refused and some are not"
    assert texts(defense, tools, mixed) == [whole[at].text for at in order]
    expected = [whole[at].extra["detector_score"] for at in order]
    assert scores(defense, tools, mixed) == pytest.approx(expected, abs=1e-6)


def test_what_is_not_refused_is_the_undefended_answer(tools: Tools) -> None:
    found = texts(HiddenDetect(threshold=middle(tools)), tools)
    undefended = texts(NoDefense(), tools)
    assert [one for one, other in zip(found, undefended, strict=True) if one != REFUSAL] == [
        other for one, other in zip(found, undefended, strict=True) if one != REFUSAL
    ]


@pytest.mark.parametrize(
    ("defense", "more"), [("shiftdc", SHORT), ("ecso", {**SHORT, "tell_max_new_tokens": 3})]
)
def test_a_gate_at_minus_infinity_is_the_defense_and_at_infinity_none(
    tools: Tools, defense: str, more: dict[str, int]
) -> None:
    def behind(threshold: float) -> list[Answer]:
        found = chosen(defense, {**more, "gate": "hidden_detect", "gate_threshold": threshold}, what="")
        return found.answer(tools, batch(), SETTINGS)

    everything, nothing = behind(-math.inf), behind(math.inf)
    assert [one.text for one in everything] == texts(DEFENSES[defense](**more), tools)
    assert [one.text for one in nothing] == texts(NoDefense(), tools)
    assert all(SENT_ON in one.notes for one in everything)
    assert not any(SENT_ON in one.notes for one in nothing)
    assert [one.extra["detector_score"] for one in nothing] == scores(HiddenDetect(), tools)
    if defense == "shiftdc":
        assert everything[0].extra["caption"] is not None, "what the defense says of its answer is kept"


def test_a_gate_sends_on_what_the_detector_would_refuse(tools: Tools) -> None:
    threshold = middle(tools)
    refused = texts(HiddenDetect(threshold=threshold), tools)
    found = chosen("adashield_s", {"gate": "hidden_detect", "gate_threshold": threshold}, what="").answer(
        tools, batch(), SETTINGS
    )
    shielded, plain = texts(DEFENSES["adashield_s"](), tools), texts(NoDefense(), tools)
    for at, answer in enumerate(found):
        sent = refused[at] == REFUSAL
        assert (SENT_ON in answer.notes) is sent
        assert answer.text == (shielded if sent else plain)[at]


def test_a_gated_defense_needs_costs_and_is_keyed_by_both(backbone: Backbone, tools: Tools) -> None:
    plain = DEFENSES["shiftdc"]()
    gated = chosen("shiftdc", {"gate": "hidden_detect"}, what="")
    assert gated.needed() == plain.needed() | {"activations", "final_norm", "logits"}
    assert gated.extra_passes() == [
        Pass("activations", ("image",), without_image=True),
        *plain.extra_passes(),
    ]
    own, both = plain.resolved(backbone), {**gated.resolved(backbone), **gated.fitted(tools)}
    assert {name: both[name] for name in own} == own
    detector = HiddenDetect().fitted(tools)
    assert both["gate"] == "hidden_detect"
    assert {name: both[f"gate_{name}"] for name in detector} == detector
    loose = chosen("shiftdc", {"gate": "hidden_detect", "gate_false_positives": 0.5}, what="")
    assert loose.fitted(tools)["gate_threshold"] != both["gate_threshold"]


def test_a_defense_of_ones_own_stands_behind_the_gate(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shout(Settings):
        name = "shout"
        word: str = "NO"

        def answer(self, tools, requests, settings):  # type: ignore[no-untyped-def]
            return [Answer(self.word, 1, 1) for _ in requests]

    monkeypatch.setitem(DEFENSES, "shout", Shout)  # type: ignore[arg-type]
    given = {"word": "STOP", "gate": "hidden_detect", "gate_threshold": "-inf"}
    assert texts(chosen("shout", given, what=""), tools) == ["STOP"] * 4


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_gate_fits_in_front_of_every_defense(name: str) -> None:
    found = chosen(name, {"gate": "hidden_detect"}, what="")
    assert (found.name, found.gate) == (name, "hidden_detect")  # type: ignore[attr-defined]
    assert isinstance(found, DEFENSES[name])
    assert found.needed() >= DEFENSES[name]().needed()


def test_a_setting_of_that_name_stays_the_defenses_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Garden(Settings):
        name = "garden"
        gate: str = "green"

        def answer(self, tools, requests, settings):  # type: ignore[no-untyped-def]
            return []

    monkeypatch.setitem(DEFENSES, "garden", Garden)  # type: ignore[arg-type]
    assert type(chosen("garden", {"gate": "red"}, what="")) is Garden


@pytest.mark.parametrize(
    ("defense", "given", "said"),
    [
        ("shiftdc", {"gate_threshold": "0"}, "model argument gate= is missing"),
        ("shiftdc", {"gate": "other"}, "model argument gate=other: Input should be 'hidden_detect'"),
        ("shiftdc", {"gate": "hidden_detect", "gate_threshold": "nan"}, "gate_threshold=nan: give a number"),
        ("hidden_detect", {"threshold": "nan"}, "threshold=nan: give a number"),
        ("hidden_detect", {"false_positives": "1"}, "false_positives=1: Input should be less than 1"),
    ],
)
def test_wrong_settings_are_named(defense: str, given: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        chosen(defense, given, what="model argument")


@pytest.mark.parametrize("gate", ["", "gate_"])
def test_layers_that_cannot_be_are_refused_before_anything_is_answered(gate: str, backbone: Backbone) -> None:
    given = {"gate": "hidden_detect"} if gate else {}
    name = "shiftdc" if gate else "hidden_detect"
    for layers, said in (("2", "the area over one layer is zero"), ("1-9", "does not fit a model")):
        with pytest.raises(
            ConfigError, match=f"^{'gate=hidden_detect: ' if gate else ''}layers={layers}.*{said}"
        ):
            chosen(name, {**given, f"{gate}layers": layers}, what="").resolved(backbone)
    shallow = SimpleNamespace(layers=range(1))
    with pytest.raises(ConfigError, match="two decoder layers at least"):
        HiddenDetect().resolved(shallow)  # type: ignore[arg-type]


def test_vllm_has_no_logits_so_it_is_refused_before_loading() -> None:
    for defense, given in (("hidden_detect", {}), ("shiftdc", {"gate": "hidden_detect"})):
        with pytest.raises(ConfigError, match=f"defense={defense} .* needs logits, which engine=vllm"):
            require(chosen(defense, given, what=""), ENGINES["vllm"], "vllm")
