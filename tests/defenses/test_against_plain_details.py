"""What one table of cases cannot show: fitted vectors, requests of other kinds, noise, controls, ECSO's branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from plain_bench import TOKENS, Bench, SeenDirections, distance, make_bench, make_benches, save_loud
from plain_cases import ARDITI, CASES, CMRM, ONLINE, OURS, REQUESTS, Case, picture
from plain_defenses import (
    ADASHIELD,
    ECSO,
    ECSO_ANSWER,
    ECSO_CAPTION,
    ECSO_TELL,
    FIGSTEP,
    PUBLISHED,
    SHIELD,
    CoCA,
    Difference,
    Rewritten,
    ShiftDC,
)
from plain_runs import PlainModel, Prompt
from torch import Tensor

from shiftdc_eval.backbones import Chat, Generated, GenerationSettings
from shiftdc_eval.defenses import DEFENSES, Request


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bench]:
    """Both families."""
    return make_benches(tmp_path_factory.mktemp("plain"))


@pytest.fixture
def bench(benches: dict[str, Bench]) -> Bench:
    """The tiny LLaVA."""
    return benches["llava"]


def plain_texts(bench: Bench, reference: Any, prompts: Sequence[Prompt], tokens: int = TOKENS) -> list[str]:
    return [reference(bench.plain, prompt, bench.texts, tokens).text for prompt in prompts]


# --- directions -------------------------------------------------------------------------------------------

FITS: dict[str, tuple[dict[str, Any], ShiftDC]] = {
    "published": ({"variant": "official", "preset": "published"}, PUBLISHED),
    "the default": ({"caption_max_new_tokens": 8}, ONLINE),
    "bare": (
        {"variant": "official", "bare_text_prompt": True, "caption_max_new_tokens": 8},
        ShiftDC(bare_fit=True),
    ),
    "post-norm": (
        {"variant": "official", "post_norm_last": True, "caption_max_new_tokens": 8},
        ShiftDC(post_norm_fit=True),
    ),
}


def relative(found: Tensor, wanted: Tensor) -> float:
    """Largest distance of two directions in any layer, relative to the layer's norm."""
    return float(((found - wanted).norm(dim=1) / wanted.norm(dim=1)).max())


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
@pytest.mark.parametrize("name", FITS)
def test_the_fitted_direction_is_the_plain_one(benches: dict[str, Bench], family: str, name: str) -> None:
    bench = benches[family]
    settings, _ = FITS[name]
    tools = bench.tools()
    requests = [Request(Chat.ask("list the items", [picture(3, 30, 90)]))]
    defense: Any = DEFENSES["shiftdc"](**settings)
    defense.answer(tools, requests, GenerationSettings(max_new_tokens=1))
    assert isinstance(tools.direction, SeenDirections)
    (_, found), *more = tools.direction.given
    assert all(torch.equal(other.vectors, found.vectors) for _, other in more)
    for fit, (_, other) in FITS.items():
        distance = relative(found.vectors, other.direction(bench.plain, bench.texts))
        assert (distance < 1e-4) == (fit == name), fit


@pytest.mark.parametrize("seeds", [(0, 1)])
def test_a_random_direction_is_projected_on_like_the_fitted_one(bench: Bench, seeds: tuple[int, int]) -> None:
    """Of the edit d of a shift m along any direction: -d.m = |d|^2, and the edits of all requests are parallel."""
    text = replace(ONLINE, layers=())
    undefended = torch.stack([text(bench.plain, p, bench.texts, 1).stream for p in REQUESTS])
    counterparts = torch.stack([counterpart(bench.plain, p) for p in REQUESTS])
    lines = []
    for seed in seeds:
        settings = {"variant": "paper", "layers": "2", "random_seed": seed, "caption_max_new_tokens": 8}
        found = bench.ask(Case("shiftdc", ONLINE, settings), tokens=1).stream
        assert found is not None
        assert torch.allclose(found[:, :3], undefended[:, :3], atol=1e-4)
        edits = (found - undefended)[:, 3]
        shifts = undefended[:, 3] - counterparts[:, 2]
        assert torch.allclose(-(edits * shifts).sum(1), (edits * edits).sum(1), rtol=1e-2)
        line = edits / edits.norm(dim=1, keepdim=True)
        assert (line @ line[0]).abs().min() > 0.999
        lines.append(line[0])
    fitted = ONLINE.direction(bench.plain, bench.texts)[2]
    assert abs(float(lines[0] @ lines[1])) < 0.9
    assert abs(float(lines[0] @ fitted / fitted.norm())) < 0.9


def counterpart(model: PlainModel, prompt: Prompt) -> Tensor:
    """`[layers, hidden]` of the request with its caption in the image's place."""
    caption = model.say(Prompt(ONLINE.caption_prompt.format(query=prompt.text), prompt.images), 8).strip()
    text = ONLINE.text_only.format(query=prompt.text, caption=caption)
    return model.run(model.chat(Prompt(text))).outputs


# --- requests of other kinds ------------------------------------------------------------------------------

TWO = Prompt("which of the two pictures shows the key?", (picture(4, 50, 20), picture(5, 28, 28)))
TEXT = Prompt("write a short poem about a lock and a key")
MIXED = (REQUESTS[2], TWO, TEXT, REQUESTS[0])


@pytest.mark.parametrize("name", ["cmrm", "coca", "refusal_direction"])
def test_text_alone_and_two_images_may_stand_in_one_batch(bench: Bench, name: str) -> None:
    """Where there is no image, a blank image and no image are the same prompt and nothing is taken away."""
    case = CASES[name]
    found = bench.ask(case, MIXED)
    assert found.texts == plain_texts(bench, case.reference, MIXED)


def test_shiftdc_leaves_a_request_without_image_as_it_is(bench: Bench) -> None:
    found = bench.ask(CASES["shiftdc online"], MIXED).texts
    assert found[2] == bench.plain.say(TEXT, TOKENS)
    images = [MIXED[at] for at in (0, 1, 3)]
    assert [found[at] for at in (0, 1, 3)] == plain_texts(bench, ONLINE, images)


def test_published_strips_the_caption_prompt_as_a_whole_and_other_prompts_by_the_request(
    bench: Bench,
) -> None:
    """As the authors' run_caption.py and hf.py do: white space before the request stays inside that one prompt."""
    prompts = [Prompt(" \n list the items \n", (picture(6, 40, 40),)), REQUESTS[1]]
    case = CASES["shiftdc published"]
    found = bench.ask(case, prompts)
    wanted = [case.reference(bench.plain, prompt, bench.texts, TOKENS) for prompt in prompts]
    assert found.texts == [answer.text for answer in wanted]
    assert found.stream is not None
    assert distance(found.stream, wanted) < 1e-4
    stripped = [case.reference(bench.plain, replace(p, text=p.text.strip()), bench.texts, 1) for p in prompts]
    assert distance(found.stream, stripped) > 1e-3


def test_coca_adds_four_times_the_difference_to_the_run_with_the_principle(bench: Bench) -> None:
    """On requests where a neighbouring strength, or the other run as base (the same as three), would show."""
    prompts = [Prompt("list the items", (picture(seed, 40, 40),)) for seed in (7, 9)]
    found = bench.ask(CASES["coca"], prompts).texts
    assert found == plain_texts(bench, CoCA(), prompts)
    for wrong in (CoCA(base="without"), CoCA(alpha=3.0), CoCA(alpha=5.0)):
        assert found != plain_texts(bench, wrong, prompts)


def test_no_answer_of_coca_holds_a_token_that_stands_for_an_image(bench: Bench) -> None:
    coca = CASES["coca"]
    wanted = [coca.reference(bench.plain, p, bench.texts, 12) for p in REQUESTS]
    assert sum(answer.barred for answer in wanted) > 0, "nothing was forbidden: this test shows nothing"
    assert bench.ask(coca, tokens=12).texts == [answer.text for answer in wanted]


# --- CMRM against noise -----------------------------------------------------------------------------------


def the_same(image: Image.Image, _request: Image.Image) -> Image.Image:
    return image


def test_cmrm_against_noise_takes_away_what_its_own_noise_image_does(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, Image.Image] = {}
    original = bench.backbone.last_token_activations

    def spy(chats: Sequence[Chat], *args: Any, **kwargs: Any) -> Tensor:
        shown.update({chat.request: chat.images[0] for chat in chats if chat.images})
        return original(chats, *args, **kwargs)

    monkeypatch.setattr(bench.backbone, "last_token_activations", spy)
    case = Case("cmrm", CMRM, {"against": "noise", "alpha": 1.0})
    found = bench.ask(case)
    wanted = []
    for prompt in REQUESTS:
        noise = shown[prompt.text]
        assert noise.size == prompt.images[0].size
        assert noise.tobytes() != prompt.images[0].tobytes()
        assert len(noise.getcolors(1 << 20) or []) > 50, "noise has many colours"
        how = Difference(meaningless=partial(the_same, noise))
        wanted.append(how(bench.plain, prompt, bench.texts, TOKENS).text)
    assert found.texts == wanted
    first = dict(shown)
    alone = bench.ask(case, REQUESTS[1:2])
    assert alone.texts == found.texts[1:2]
    assert first[REQUESTS[1].text].tobytes() == shown[REQUESTS[1].text].tobytes(), (
        "the noise is not drawn anew"
    )
    assert found.texts != bench.answered("cmrm").texts


# --- refusal direction with a layer of its own choice -----------------------------------------------------


@pytest.mark.parametrize("reference", [ARDITI, OURS], ids=["everywhere", "last prompt token"])
def test_the_layer_chosen_by_itself_is_edited_as_a_named_one(bench: Bench, reference: Any) -> None:
    settings: dict[str, Any] = {"alpha": 2.0}
    if reference is OURS:
        settings |= {"positions": "last", "passes": "prefill", "site": "output"}
    found = bench.ask(Case("refusal_direction", reference, settings), REQUESTS[:2], tokens=5).texts
    layers = range(len(bench.plain.layers))
    by_layer = {at: plain_texts(bench, replace(reference, layer=at), REQUESTS[:2], 5) for at in layers}
    assert len({tuple(texts) for texts in by_layer.values()}) == len(layers)
    assert found in by_layer.values()


# --- AdaShield on FigStep's prompt ------------------------------------------------------------------------


def test_adashield_ends_figsteps_prompt_with_a_line_break_both_times(bench: Bench) -> None:
    prompts = [Prompt(FIGSTEP, (picture(7, 60, 60),)), REQUESTS[0]]
    found = bench.ask(CASES["adashield_s"], prompts).texts
    assert found == plain_texts(bench, ADASHIELD, prompts)
    twice = Prompt(f"{FIGSTEP}\n{SHIELD}{FIGSTEP}\n", prompts[0].images)
    assert found[0] == bench.plain.say(twice, TOKENS)
    for wrong in (f"{FIGSTEP}{SHIELD}{FIGSTEP}", f"{FIGSTEP}\n{SHIELD}{FIGSTEP}"):
        assert found[0] != bench.plain.say(Prompt(wrong, prompts[0].images), TOKENS)
    undefended = bench.ask(CASES["none"], prompts).texts
    assert undefended == plain_texts(bench, Rewritten(), prompts), "the prompt stays as it is elsewhere"


# --- ECSO -------------------------------------------------------------------------------------------------

LONG = "x" * 1926 + "y" + "z" * 100


@pytest.mark.parametrize(
    ("verdict", "unsafe"),
    [
        ("yes", True),
        ("Yes.", True),
        (" YES \n", True),
        ("yes!", False),
        ("Yes, it is harmful.", False),
        ("no", False),
        ("", False),
    ],
)
def test_ecso_asks_what_the_authors_ask_and_takes_only_a_bare_yes_for_unsafe(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, verdict: str, unsafe: bool
) -> None:
    query, image = "list the items", picture(3, 30, 90)
    tell = ECSO_TELL.format(query, LONG[:1927])
    hints = ECSO_ANSWER.format(caption="three boxes", question=query)
    script = {
        (query, 1): f" \n {LONG} ",
        (tell, 1): verdict,
        (ECSO_CAPTION.format(query), 1): " three boxes\n",
        (hints, 0): "the safe answer",
    }
    asked: list[tuple[str, int]] = []

    def scripted(chats: Sequence[Chat], *_: Any, **__: Any) -> list[Generated]:
        keys = [(chat.request, len(chat.images)) for chat in chats]
        asked.extend(keys)
        return [Generated(script[key], 1, 1, (5,)) for key in keys]

    monkeypatch.setattr(bench.backbone, "generate", scripted)
    requests = [Request(Chat.ask(query, [image]))]
    ecso: Any = DEFENSES["ecso"]()
    (answer,) = ecso.answer(bench.tools(), requests, GenerationSettings(max_new_tokens=8))
    assert answer.text.strip() == ("the safe answer" if unsafe else LONG)
    assert asked == list(script) if unsafe else asked == list(script)[:2]


def teach_yes(folder: Path, unsafe: Sequence[int]) -> None:
    """Make the model say yes, and end, when asked about its answers to some requests; all else stays the same.

    Rows of the language-model head are solved for: the logits of `yes` and of the end token are kept at every
    state that ECSO passes through, but where they are to win.
    """
    plain = PlainModel(folder)
    head = plain.model.get_output_embeddings()
    yes = plain.processor.tokenizer.convert_tokens_to_ids("yes")
    end = plain.model.generation_config.eos_token_id
    states: list[Tensor] = []
    wins: dict[int, list[int]] = {yes: [], end: []}
    handle = head.register_forward_pre_hook(lambda _module, args: states.append(args[0][0, -1].clone()))
    for at, prompt in enumerate(REQUESTS):
        said = plain.say(prompt, TOKENS).strip()
        question = plain.chat(Prompt(ECSO_TELL.format(prompt.text, said), prompt.images))
        if at not in unsafe:
            plain.answer([(question, ())], 8)
            continue
        wins[yes].append(len(states))
        plain.answer([(question, ())], 1)
        wins[end].append(len(states))
        ids = torch.cat([question["input_ids"], torch.tensor([[yes]])], dim=1)
        mask = torch.ones_like(ids)
        plain.run({**question, "input_ids": ids, "attention_mask": mask})
        described = plain.say(Prompt(ECSO_CAPTION.format(prompt.text), prompt.images), 8).strip()
        plain.say(Prompt(ECSO_ANSWER.format(caption=described, question=prompt.text)), TOKENS)
    handle.remove()
    with torch.no_grad():
        seen = torch.stack(states).double()
        logits = seen @ head.weight.double().T
        for token, places in wins.items():
            wanted = logits[:, token].clone()
            wanted[places] = logits[places].max(dim=1).values + 5
            head.weight[token] = (
                torch.linalg.lstsq(seen, wanted[:, None], driver="gelsd").solution[:, 0].float()
            )
    plain.model.save_pretrained(folder)


@pytest.fixture(scope="module")
def wary(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A tiny LLaVA that calls its answers to the first and the last request harmful."""
    root = tmp_path_factory.mktemp("wary")
    folder = save_loud("llava", root / "llava", hidden=128)
    teach_yes(folder, unsafe=(0, 2))
    return make_bench(folder, root)


ECSO_CASE = Case("ecso", ECSO(), {"caption_max_new_tokens": 8, "tell_max_new_tokens": 8})


@pytest.fixture(scope="module")
def ecso_texts(wary: Bench) -> list[str]:
    """What the package answers with ECSO, white space around it left out."""
    return [text.strip() for text in wary.ask(ECSO_CASE).texts]


def test_ecso_answers_anew_what_the_model_calls_harmful(wary: Bench, ecso_texts: list[str]) -> None:
    first = plain_texts(wary, Rewritten(), REQUESTS)
    wanted = plain_texts(wary, ECSO(), REQUESTS)
    assert [a == b for a, b in zip(first, wanted, strict=True)] == [False, True, False]
    assert ecso_texts == [text.strip() for text in wanted]


@pytest.mark.parametrize(
    "wrong",
    [
        ECSO(keep_image=True),
        ECSO(check=False),
        ECSO(yes=()),
        ECSO(yes=("no",)),
        ECSO(caption_prompt="Describe the image."),
        ECSO(answer_prompt="Hints: {caption}\n\n{question}"),
    ],
    ids=[
        "the image is kept",
        "no check",
        "always the first answer",
        "no for yes",
        "another caption prompt",
        "another answer prompt",
    ],
)
def test_a_misreading_of_ecso_is_noticed(wary: Bench, ecso_texts: list[str], wrong: ECSO) -> None:
    assert ecso_texts != [text.strip() for text in plain_texts(wary, wrong, REQUESTS)]
