"""RAI beside its plain loop: what an answer says about the size of the edit, and requests of other kinds."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from plain_bench import Bench, make_bench, save_loud
from plain_cases import RAI, REQUESTS, WORDS
from plain_defenses import Injection
from plain_runs import Edit, Prompt
from torch import Tensor

from shiftdc_eval.backbones import Chat, GenerationSettings
from shiftdc_eval.core.errors import ConfigError, ModelError
from shiftdc_eval.core.validation import validated
from shiftdc_eval.defenses import NOT_APPLICABLE, Answer, Request
from shiftdc_eval.defenses.rai import Rai, _note

SETTINGS = GenerationSettings(max_new_tokens=4)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The tiny LLaVA."""
    root = tmp_path_factory.mktemp("rai")
    return make_bench(save_loud("llava", root / "llava"), root)


def asked(bench: Bench, defense: Rai, settings: GenerationSettings = SETTINGS) -> list[Answer]:
    requests = [Request(Chat.ask(prompt.text, prompt.images)) for prompt in REQUESTS]
    return defense.answer(bench.tools(), requests, settings)


def plain_size(bench: Bench, how: Injection, prompt: Prompt) -> dict[str, float]:
    """Number of image tokens and of edited ones, mean of |edit| / |h| over these, largest cosine of all."""
    inputs = bench.plain.chat(prompt)
    image = [int(token) in bench.plain.forbidden for token in inputs["input_ids"][0]]
    rows: list[Tensor] = []
    bench.plain.run(inputs, [Edit(0, lambda hidden: [rows.extend(hidden), hidden][1], positions="prompt")])
    shown = [row for row, is_image in zip(rows, image, strict=True) if is_image]
    prototypes = how.prototypes(bench.plain)
    ratios = [float(how.pushed(h, prototypes).norm() / h.norm()) for h in shown]
    moved = [ratio for ratio in ratios if ratio > 0]
    cosines = [float(h @ u / (h.norm() * u.norm())) for h in shown for u in prototypes]
    return {
        "image_tokens": len(shown),
        "edited_tokens": len(moved),
        "edit_ratio": sum(moved) / max(len(moved), 1),
        "largest_cosine": max(cosines),
    }


@pytest.mark.parametrize(("strength", "tau"), [(1.0, 0.15), (80.0, 0.15), (1.0, 0.9)])
def test_each_answer_says_how_far_its_image_tokens_were_moved(
    bench: Bench, strength: float, tau: float
) -> None:
    answers = asked(bench, Rai(strength=strength, tau=tau))
    for answer, prompt in zip(answers, REQUESTS, strict=True):
        wanted = plain_size(bench, Injection(WORDS, strength=strength, tau=tau), prompt)
        assert answer.extra == pytest.approx(wanted, rel=1e-3)
        assert (answer.notes == ("rai: no image token edited",)) == (tau == 0.9)


@pytest.mark.parametrize(
    ("edited", "ratio", "note"),
    [
        (0, 0.0, "rai: no image token edited"),
        (3, 0.0004, "rai: edited image tokens moved by less than 0.1% of their length"),
        (3, 0.05, "rai: edited image tokens moved by less than 10.0% of their length"),
        (3, 1.5, "rai: edited image tokens moved by their own length or more"),
    ],
)
def test_a_note_says_the_size_in_steps_of_ten(edited: int, ratio: float, note: str) -> None:
    assert _note({"edited_tokens": edited, "edit_ratio": ratio}) == note


def test_the_size_is_told_once_for_a_setting(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        asked(bench, Rai(strength=3.0, tau=0.2))
    (said,) = [record.message for record in caplog.records if "rai:" in record.message]
    assert said.startswith("rai: strength=3 tau=0.2 edits ")
    assert said.endswith("of their length on average")


def test_without_a_cache_every_step_sees_the_edited_prompt(bench: Bench) -> None:
    uncached = GenerationSettings(max_new_tokens=4, use_cache=False)
    found = asked(bench, Rai(strength=80.0), uncached)
    assert [answer.text for answer in found] == [RAI(bench.plain, p, bench.texts, 4).text for p in REQUESTS]
    assert found == asked(bench, Rai(strength=80.0))


def test_a_request_without_an_image_is_answered_as_it_is(bench: Bench) -> None:
    prompt = Prompt("write a short poem about a lock and a key")
    requests = [Request(Chat.ask(REQUESTS[0].text, REQUESTS[0].images)), Request(Chat.ask(prompt.text))]
    _, answer = Rai(strength=80.0).answer(bench.tools(), requests, SETTINGS)
    assert (answer.text, answer.notes, answer.extra) == (bench.plain.say(prompt, 4), (NOT_APPLICABLE,), {})


def test_the_record_names_the_words_and_their_version(bench: Bench) -> None:
    words = Rai().resolved(bench.backbone)["words"]
    assert words == f"ours, version 1: {', '.join(WORDS)}"
    path = Path(__file__).parents[2] / "shiftdc_eval" / "defenses" / "rai_words.yaml"
    listed = yaml.safe_load(path.read_text())["words"]
    assert Rai(k=12).words == list(listed)
    assert len(set(listed.values())) == 6, "six classes of risk"
    assert set(list(listed.values())[:6]) == set(listed.values()), "each has a word from k=6 on"
    with pytest.raises(ConfigError, match="k"):
        validated(Rai, {"k": 13}, what="model argument")


def test_a_model_whose_image_tokens_are_not_known_is_not_left_undefended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shiftdc_eval.backbones.transformers_backbone.image_placeholders", lambda _config: [])
    shown = [Request(Chat.ask("what is it", REQUESTS[0].images))]
    with pytest.raises(ModelError, match="its configuration names no image token"):
        Rai().answer(bench.tools(), shown, GenerationSettings(max_new_tokens=1))
