"""What the package is compared in: toy requests, a toy contrast set, and for every defense its wrong readings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from plain_defenses import (
    ADASHIELD,
    ECSO,
    GUARDRAIL,
    PUBLISHED,
    SHIELD,
    Astra,
    Begun,
    CoCA,
    DatasetDifference,
    Difference,
    Injection,
    Recentred,
    RefusalDirection,
    Rewritten,
    ShiftDC,
    Subspace,
    Texts,
    Transfer,
    blank,
)
from plain_runs import Answered, PlainModel, Prompt

Reference = Callable[[PlainModel, Prompt, Texts, int], Answered]


def picture(seed: int, width: int, height: int) -> Image.Image:
    """Random coarse squares: every picture looks different to a tiny vision tower."""
    squares = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(squares).resize((width, height), Image.Resampling.NEAREST)


REQUESTS = (
    Prompt("paint the red lock", (picture(6, 40, 40),)),
    Prompt(
        "which of the three doors in this picture is the one that the blue key opens? \n",
        (picture(2, 72, 44),),
    ),
    Prompt("list the items", (picture(3, 30, 90),)),
)
"""Prompts of different lengths with images of different sizes; one ends in white space."""


def write_contrast(path: Path) -> Path:
    """Eight pairs of harmless sentences; one pair has no captions."""
    things = ("lock", "door", "gate", "box", "chest", "window", "drawer", "bike")
    with path.open("w", encoding="utf-8") as file:
        for index, thing in enumerate(things):
            row = {
                "id": f"pair {index}",
                "unsafe": f"pick the red {thing} without the key of its owner",
                "safe": f"paint the {thing} in a friendly colour",
                "unsafe_caption": f"a red {thing} with number {index} on it",
                "safe_caption": f"a {thing} and {index} brushes",
            }
            if index == 4:
                del row["unsafe_caption"], row["safe_caption"]
            file.write(json.dumps(row) + "\n")
    return path


@dataclass(frozen=True)
class Case:
    """One defense with its settings, the plain loop of it, and plain loops of what it is not."""

    defense: str
    reference: Reference
    settings: Mapping[str, Any] = field(default_factory=dict)
    edits: bool = True
    """Whether it edits activations of the one pass that answers."""
    both: bool = False
    """Whether the second family is asked too."""
    wrong: Mapping[str, Reference] = field(default_factory=dict)


ONLINE = ShiftDC(layers=(1, 2, 3))
TURNED = replace(ONLINE, spherical=True, alpha=1.5)
FIXED = ShiftDC(online=False, alpha=4.0)
SWITCHES = replace(FIXED, bare_counterpart=True, bare_fit=True, post_norm_last=True, post_norm_fit=True)
CMRM = Difference()
GUARD = Subspace(rank=4, alpha=4.0, layers=(1, 2, 3))
PUSH = Subspace(variant="push", rank=3, alpha=2.0, layers=(1, 2, 3))
CAPTIONED = Subspace(query="caption", gated=False, alpha=0.5)
BLANK = Difference(first="request", second="meaningless")
DATASET = DatasetDifference()
MARS = Recentred(layer=1)
MARS_SAFE = Recentred(layer=0, opens="safe", alpha=3.0)
ASTRA = Astra(layer=2, alpha=3.0)
ARDITI = RefusalDirection(layer=1, alpha=2.0)
OURS = RefusalDirection(layer=2, alpha=2.0, site="output", positions="last")

SRT = Transfer(candidates=(1, 2))
WORDS = ("crime", "malware", "pornography", "hatred", "violence", "fraud", "drugs", "exploit", "weapon")
RAI = Injection(WORDS, strength=80.0)
"""A larger strength than the paper's: with 1 a tiny model's answers do not change."""


def with_images(change: Callable[[Image.Image], Image.Image | None]) -> Reference:
    """The undefended answer to the request with other images."""
    return lambda m, p, t, n: Rewritten()(
        m, Prompt(p.text, tuple(image for image in map(change, p.images) if image is not None)), t, n
    )


CASES: dict[str, Case] = {
    "none": Case(
        "none",
        Rewritten(),
        both=True,
        wrong={"the image is left out": lambda m, p, t, n: Rewritten()(m, Prompt(p.text), t, n)},
    ),
    "shiftdc online": Case(
        "shiftdc",
        ONLINE,
        {"layers": "1-3", "caption_max_new_tokens": 8},
        both=True,
        wrong={
            "the sign is flipped": replace(ONLINE, alpha=-1.0),
            "corrections come from an unedited run": replace(ONLINE, online=False),
            "the last token but one is edited": replace(ONLINE, positions="last but one"),
            "decode steps are steered": replace(ONLINE, positions="last and answer"),
            "the whole shift is taken away": replace(ONLINE, onto="shift"),
            "the direction is the layer's below": replace(ONLINE, direction_of=1),
            "the counterpart has no template": replace(ONLINE, bare_counterpart=True),
            "the direction is fitted without the template": replace(ONLINE, bare_fit=True),
            "the last layer's text activation is normed": replace(ONLINE, post_norm_last=True),
            "the fit norms the last layer": replace(ONLINE, post_norm_fit=True),
            "the first layer is left out": replace(ONLINE, layers=(2, 3)),
            "the caption does not see the request": replace(ONLINE, caption_prompt="Describe the image."),
            "the caption stands before the request": replace(
                ONLINE, text_only="Image Caption: {caption} {query}"
            ),
        },
    ),
    "shiftdc online, one-sided, default layers": Case(
        "shiftdc",
        ShiftDC(one_sided=True, alpha=6.0),
        {"one_sided": True, "alpha": 6.0, "caption_max_new_tokens": 8},
        wrong={
            "both sides are taken away": ShiftDC(alpha=6.0),
            "the other side is taken away": ShiftDC(one_sided=True, alpha=-6.0),
            "alpha is left out": ShiftDC(one_sided=True),
            "all layers are edited": ShiftDC(one_sided=True, alpha=6.0, layers=(0, 1, 2, 3)),
        },
    ),
    "shiftdc spherical": Case(
        "shiftdc",
        TURNED,
        {"variant": "spherical", "alpha": 1.5, "layers": "1-3", "caption_max_new_tokens": 8},
        both=True,
        wrong={
            "the norm changes": replace(TURNED, spherical=False),
            "the sign is flipped": replace(TURNED, alpha=-1.5),
            "decode steps are edited": replace(TURNED, positions="last and answer"),
        },
    ),
    "shiftdc paper": Case(
        "shiftdc",
        FIXED,
        {"variant": "paper", "alpha": 4.0, "caption_max_new_tokens": 8},
        wrong={
            "the sign is flipped": replace(FIXED, alpha=-4.0),
            "the current activation is compared": replace(FIXED, online=True),
            "the text side has no template": replace(FIXED, bare_counterpart=True),
            "the last layer is normed": replace(FIXED, post_norm_last=True),
            "the last token but one is edited": replace(FIXED, positions="last but one"),
            "decode steps are steered": replace(FIXED, positions="last and answer"),
            "the expert prompt is answered": replace(FIXED, expert=True),
        },
    ),
    "shiftdc official, no switch": Case(
        "shiftdc", FIXED, {"variant": "official", "alpha": 4.0, "caption_max_new_tokens": 8}, wrong={}
    ),
    "shiftdc official, bare texts and post-norm": Case(
        "shiftdc",
        SWITCHES,
        {
            "variant": "official",
            "alpha": 4.0,
            "bare_text_prompt": True,
            "post_norm_last": True,
            "caption_max_new_tokens": 8,
        },
        wrong={
            "the fit keeps the template": replace(SWITCHES, bare_fit=False),
            "the counterpart keeps the template": replace(SWITCHES, bare_counterpart=False),
            "the fit is not normed": replace(SWITCHES, post_norm_fit=False),
            "the activations are not normed": replace(SWITCHES, post_norm_last=False),
        },
    ),
    "shiftdc official, expert prompt, stripped, four tokens": Case(
        "shiftdc",
        replace(FIXED, expert=True, strip=True, answer_tokens=4),
        {
            "variant": "official",
            "alpha": 4.0,
            "expert_prompt": True,
            "strip_request": True,
            "answer_max_new_tokens": 4,
            "caption_max_new_tokens": 8,
        },
        wrong={
            "the bare query is answered": replace(FIXED, strip=True, answer_tokens=4),
            "the expert prompt is measured": replace(
                FIXED, expert=True, expert_when_measuring=True, strip=True, answer_tokens=4
            ),
            "white space stays": replace(FIXED, expert=True, answer_tokens=4),
        },
    ),
    "shiftdc official, decode steps steered": Case(
        "shiftdc",
        replace(FIXED, positions="last and answer"),
        {"variant": "official", "alpha": 4.0, "steer_decode": True, "caption_max_new_tokens": 8},
        wrong={"the prefill alone is steered": FIXED},
    ),
    "shiftdc published": Case(
        "shiftdc",
        PUBLISHED,
        {"variant": "official", "preset": "published"},
        both=True,
        wrong={
            "the sign is flipped": replace(PUBLISHED, alpha=-1.0),
            "the fit keeps the template": replace(PUBLISHED, bare_fit=False),
            "the counterpart keeps the template": replace(PUBLISHED, bare_counterpart=False),
            "the fit is not normed": replace(PUBLISHED, post_norm_fit=False),
            "requests without a caption are fitted on too": replace(PUBLISHED, requests_too=True),
            "the activations are not normed": replace(PUBLISHED, post_norm_last=False),
            "decode steps are steered": replace(PUBLISHED, positions="last and answer"),
            "no expert prompt": replace(PUBLISHED, expert=False),
            "the expert prompt is measured": replace(PUBLISHED, expert_when_measuring=True),
            "white space stays": replace(PUBLISHED, strip=False),
            "captions are cut at eight tokens": replace(PUBLISHED, caption_tokens=8),
            "the current activation is compared": replace(PUBLISHED, online=True),
        },
    ),
    "subspace": Case(
        "subspace",
        GUARD,
        {"rank": 4, "alpha": 4.0, "layers": "1-3"},
        both=True,
        wrong={
            "one singular vector is kept": replace(GUARD, rank=1),
            "five are kept": replace(GUARD, rank=5),
            "there is no gate": replace(GUARD, gated=False),
            "the gate is open for the safe side": replace(GUARD, towards_safe=True),
            "the text run's part is not put in": replace(GUARD, alpha=0.0),
            "nothing is projected out": replace(GUARD, variant="push"),
            "the differences are centred": replace(GUARD, centred=True),
            "texts with captions are left out of the fit": replace(GUARD, requests_only=True),
            "the text run has a caption": replace(GUARD, query="caption"),
            "the first layer is left out": replace(GUARD, layers=(2, 3)),
            "the last token but one is edited": replace(GUARD, positions="last but one"),
            "decode steps are edited": replace(GUARD, positions="last and answer"),
        },
    ),
    "subspace, push": Case(
        "subspace",
        PUSH,
        {"variant": "push", "rank": 3, "alpha": 2.0, "layers": "1-3"},
        wrong={
            "the image run's part is projected out": replace(PUSH, variant="project_add"),
            "alpha is left out": replace(PUSH, alpha=1.0),
            "there is no gate": replace(PUSH, gated=False),
            "all layers are edited": replace(PUSH, layers=(0, 1, 2, 3)),
        },
    ),
    "subspace with a caption, half strength": Case(
        "subspace",
        CAPTIONED,
        {"query": "caption", "alpha": 0.5, "caption_max_new_tokens": 8},
        wrong={
            "the request stands alone": replace(CAPTIONED, query="raw"),
            "it is gated": replace(CAPTIONED, gated=True),
            "alpha is one": replace(CAPTIONED, alpha=1.0),
        },
    ),
    "cmrm": Case(
        "cmrm",
        CMRM,
        {"alpha": 1.0},
        both=True,
        wrong={
            "the sign is flipped": replace(CMRM, alpha=-1.0),
            "alpha is twice as large": replace(CMRM, alpha=2.0),
            "the two terms are swapped": replace(CMRM, first="text", second="meaningless"),
            "the request's image stands for the blank one": replace(CMRM, first="request"),
            "the blank image stands for no image": BLANK,
            "the text has no template": replace(CMRM, bare_text=True),
            "the last token but one is edited": replace(CMRM, positions="last but one"),
            "decode steps are edited": replace(CMRM, positions="last and answer"),
            "only the later half is edited": replace(CMRM, layers=(2, 3)),
            "the last layer is normed": replace(CMRM, post_norm_last=True),
            "the blank image is black": replace(CMRM, meaningless=lambda i: Image.new("RGB", i.size)),
        },
    ),
    "cmrm of two layers": Case(
        "cmrm",
        replace(CMRM, alpha=0.5, layers=(1, 2)),
        {"alpha": 0.5, "layers": "1-2"},
        wrong={
            "all layers are edited": replace(CMRM, alpha=0.5),
            "alpha stands at one term alone": replace(CMRM, alpha=0.5, layers=(1, 2), alpha_on="first"),
            "alpha is left out": replace(CMRM, layers=(1, 2)),
        },
    ),
    "cmrm, data-set level": Case(
        "cmrm",
        DATASET,
        {"level": "dataset"},
        both=True,
        wrong={
            "the sign is flipped": DatasetDifference(replace(CMRM, alpha=-1.0)),
            "each request's own difference is taken": CMRM,
            "the texts have no template": DatasetDifference(replace(CMRM, bare_text=True)),
            "one side alone is averaged": replace(DATASET, sides=("unsafe",)),
            "decode steps are edited": DatasetDifference(replace(CMRM, positions="last and answer")),
        },
    ),
    "coca": Case(
        "coca",
        CoCA(),
        edits=False,
        both=True,
        wrong={
            "the terms of the difference are swapped": CoCA(plus="without", minus="with"),
            "alpha stands at the base": CoCA(alpha_on="base"),
            "alpha is one": CoCA(alpha=1.0),
            "no contrast": CoCA(alpha=0.0),
            "the principle stands behind the request": CoCA(form="{query}\n{principle}"),
            "a line break stands for the space": CoCA(form="{principle}\n{query}"),
            "another principle": CoCA(principle="The assistant should answer briefly."),
        },
    ),
    "coca with its own alpha and principle": Case(
        "coca",
        CoCA(alpha=1.5, principle="Answer briefly."),
        {"alpha": 1.5, "principle": "Answer briefly."},
        edits=False,
        wrong={
            "the usual principle": CoCA(alpha=1.5),
            "the base is the run without": CoCA(alpha=1.5, principle="Answer briefly.", base="without"),
        },
    ),
    "refusal_direction": Case(
        "refusal_direction",
        ARDITI,
        {"layers": "1", "alpha": 2.0},
        both=True,
        wrong={
            "the sign is flipped": replace(ARDITI, alpha=-2.0),
            "alpha is one": replace(ARDITI, alpha=1.0),
            "the output of the layer is edited": replace(ARDITI, site="output", fitted_at="input"),
            "the vector comes from the layer's output": replace(ARDITI, fitted_at="output"),
            "the layer's output is measured and edited": replace(ARDITI, site="output"),
            "the last prompt token alone is edited": replace(ARDITI, positions="last"),
            "the prompt alone is edited": replace(ARDITI, positions="prompt"),
            "newest tokens alone are edited": replace(ARDITI, positions="last and answer"),
            "the fit has no template": replace(ARDITI, bare_fit=True),
        },
    ),
    "refusal_direction, last prompt token at a layer's output": Case(
        "refusal_direction",
        OURS,
        {"layers": "2", "alpha": 2.0, "positions": "last", "passes": "prefill", "site": "output"},
        both=True,
        wrong={
            "all positions are edited": replace(OURS, positions="all"),
            "decode steps are edited": replace(OURS, positions="last and answer"),
            "the last token but one is edited": replace(OURS, positions="last but one"),
            "the layer's input is edited": replace(OURS, site="input", fitted_at="output"),
            "the vector comes from the layer's input": replace(OURS, fitted_at="input"),
        },
    ),
    "refusal_direction, the whole prompt, prefill only": Case(
        "refusal_direction",
        replace(ARDITI, positions="prompt"),
        {"layers": "1", "alpha": 2.0, "passes": "prefill"},
        wrong={"decode steps are edited": ARDITI},
    ),
    "refusal_direction, newest tokens of every pass": Case(
        "refusal_direction",
        replace(OURS, positions="last and answer"),
        {"layers": "2", "alpha": 2.0, "positions": "last", "site": "output"},
        wrong={"the prefill alone is edited": OURS},
    ),
    "srt_raw": Case(
        "srt_raw",
        SRT,
        {"layers": "1-2"},
        wrong={
            "the sign is flipped": replace(SRT, alpha=-1.0),
            "alpha is two": replace(SRT, alpha=2.0),
            "the last prompt token alone is edited": replace(SRT, positions="last"),
            "the prompt alone is edited": replace(SRT, positions="prompt"),
            "newest tokens alone are edited": replace(SRT, positions="last and answer"),
            "the layer's input is edited": replace(SRT, site="input"),
            "the layer above is edited": replace(SRT, above=1),
            "the vector of another token is added": replace(SRT, token=-2),
            "harmful texts stand alone": replace(SRT, plain_image=False),
            "drawn requests come with another prompt": replace(SRT, prompt="list the items"),
            "refusals begin with Sure": replace(SRT, opening=("Sure",)),
        },
    ),
    "srt_raw, alpha two, prefill alone": Case(
        "srt_raw",
        replace(SRT, alpha=2.0, positions="prompt"),
        {"alpha": 2.0, "decode": False, "layers": "1-2"},
        wrong={"decode steps are edited": replace(SRT, alpha=2.0)},
    ),
    "rai": Case(
        "rai",
        RAI,
        {"strength": 80.0},
        both=True,
        wrong={
            "the sign is flipped": replace(RAI, strength=-80.0),
            "strength is one": replace(RAI, strength=1.0),
            "every prototype counts": replace(RAI, tau=-1.0),
            "tau is higher": replace(RAI, tau=0.3),
            "a word more": replace(RAI, words=(*WORDS, "racism")),
            "six words": replace(RAI, words=WORDS[:6]),
            "text tokens are edited": replace(RAI, tokens="text"),
            "the whole prompt is edited": replace(RAI, tokens="prompt"),
            "the second layer is edited": replace(RAI, layer=1),
            "the first layer's input is edited": replace(RAI, site="input"),
            "a word is its first token": replace(RAI, word="first token"),
            "prototypes keep their length": replace(RAI, length="own"),
            "prototypes are not weighted": replace(RAI, weight="one"),
            "the coordinate is the weight": replace(RAI, weight="dot product"),
        },
    ),
    "rai with fewer words and a lower tau": Case(
        "rai",
        Injection(WORDS[:4], strength=30.0, tau=0.1),
        {"strength": 30.0, "tau": 0.1, "k": 4},
        wrong={"nine words": Injection(WORDS, strength=30.0, tau=0.1)},
    ),
    "recentred_refusal": Case(
        "recentred_refusal",
        MARS,
        {"layer": 1},
        wrong={
            "it is not recentred": replace(MARS, recentred=False),
            "the gate opens on the other side": replace(MARS, opens="safe"),
            "there is no gate": replace(MARS, gated=False),
            "the unsafe centroid is passed": replace(MARS, capped=False),
            "the sign is flipped": replace(MARS, alpha=-1.0),
            "the layer above is edited": replace(MARS, layer=2),
            "centroids are the layer's above": replace(MARS, fitted_at=2),
            "decode steps are edited": replace(MARS, positions="last and answer"),
        },
    ),
    "recentred_refusal, opening on the safe side": Case(
        "recentred_refusal",
        MARS_SAFE,
        {"layer": 0, "opens": "safe", "alpha": 3.0},
        both=True,
        wrong={
            "the gate opens on the other side": replace(MARS_SAFE, opens="unsafe"),
            "the unsafe centroid is passed": replace(MARS_SAFE, capped=False),
            "alpha is left out": replace(MARS_SAFE, alpha=1.0),
        },
    ),
    "astra": Case(
        "astra",
        ASTRA,
        {"layer": 2, "alpha": 3.0},
        both=True,
        wrong={
            "the sign is flipped": replace(ASTRA, alpha=-3.0),
            "there is no gate": replace(ASTRA, gate="none"),
            "the cosine is not cut at zero": replace(ASTRA, gate="cosine, not cut"),
            "the cosine is that of the activation itself": replace(ASTRA, centred=False),
            "the activation's norm is left out": replace(ASTRA, scaled=False),
            "their key is taken for the layer": Astra(layer=3, alpha=3.0),
            "the vectors are the layer's below": replace(ASTRA, fitted_at=1),
            "the fit has no template": replace(ASTRA, bare_fit=True),
            "the prefill alone is edited": replace(ASTRA, positions="last"),
            "all positions are edited": replace(ASTRA, positions="all"),
        },
    ),
    "astra, the default layer, prefill, from the origin": Case(
        "astra",
        Astra(layer=1, alpha=3.0, positions="last", centred=False),
        {"alpha": 3.0, "passes": "prefill", "centre": "zero"},
        wrong={
            "decode steps are edited": Astra(layer=1, alpha=3.0, centred=False),
            "there is a calibration point": Astra(layer=1, alpha=3.0, positions="last"),
        },
    ),
    "ecso_caption": Case(
        "ecso_caption",
        ECSO(check=False),
        {"caption_max_new_tokens": 8},
        edits=False,
        both=True,
        wrong={
            "the image is kept": ECSO(check=False, keep_image=True),
            "the caption does not see the request": ECSO(check=False, caption_prompt="Describe the image."),
        },
    ),
    "adashield_s": Case(
        "adashield_s",
        ADASHIELD,
        edits=False,
        both=True,
        wrong={
            "the shield stands before the request": Rewritten(f"{SHIELD}{{}}"),
            "the shield stands behind the request": Rewritten(f"{{}}{SHIELD}"),
            "line breaks stand between": Rewritten(f"{{}}\n{SHIELD}\n{{}}"),
        },
    ),
    "blank_image": Case(
        "blank_image",
        with_images(lambda image: Image.new("RGB", image.size, (128, 128, 128))),
        edits=False,
        both=True,
        wrong={
            "the image is left out": with_images(lambda _: None),
            "the image is white": with_images(blank),
        },
    ),
    "blank_image, text alone": Case(
        "blank_image", with_images(lambda _: None), {"image": "none"}, edits=False, both=True
    ),
    "always_prefix": Case(
        "always_prefix",
        Begun(),
        edits=False,
        both=True,
        wrong={
            "no blank in front of the words": Begun(blank=False),
            "the words are left out of the answer": Begun(shown=False),
            "they stand in the request": Rewritten("{} As an AI assistant"),
        },
    ),
    "uniguard_text": Case(
        "uniguard_text",
        Rewritten(f"{{}}\n{GUARDRAIL}"),
        edits=False,
        both=True,
        wrong={
            "the guardrail stands before the request, as the optimised one": Rewritten(f"{GUARDRAIL}\n{{}}"),
            "a blank stands for the line break": Rewritten(f"{{}} {GUARDRAIL}"),
            "its full stop is left out": Rewritten(f"{{}}\n{GUARDRAIL[:-1]}"),
        },
    ),
}
"""Name -> case."""

RUNS = [
    (family, name)
    for name, case in CASES.items()
    for family in (("llava", "qwen2_vl") if case.both else ("llava",))
]
"""Which family is asked in which case."""
