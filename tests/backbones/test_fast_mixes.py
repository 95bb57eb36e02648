"""Any mix of requests, in any order and any number of places, gives each request its own answer."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings, ModelSpec, load_backbone
from shiftdc_eval.backbones.fast import decoding, pieces
from shiftdc_eval.backbones.interface import EditBuilder
from shiftdc_eval.backbones.transformers_backbone import TransformersBackbone
from shiftdc_eval.steering import Shift

LONG = GenerationSettings(max_new_tokens=14)


def pool() -> list[list[Chat]]:
    """Requests, each as two prompts about the same images; some without images."""

    def picture(seed: int) -> Image.Image:
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randint(0, 256, (30, 40, 3), generator=generator, dtype=torch.uint8)
        return Image.fromarray(pixels.numpy())

    found = []
    for seed in range(7):
        images = [picture(10 * seed + index) for index in range((1, 2, 0, 1, 1, 3, 0)[seed])]
        system = "answer briefly" if seed % 3 == 0 else ""
        asked = Chat.ask("describe " * (1 + 4 * seed % 9), images, system=system)
        found.append([asked, asked.with_request(f"a list of {asked.request}")])
    return found


@pytest.fixture(scope="module")
def answered(
    tiny_llava: Path,
) -> tuple[Backbone, list[list[Chat]], dict[tuple[int, int, bool], tuple[int, ...]]]:
    """The fast engine, the pool, and what the plain path answers to each prompt alone, edited or not."""
    plain = load_backbone(ModelSpec(str(tiny_llava), device="cpu", engine="plain"))
    chats = pool()
    first = [plain.generate([prompts[0]], LONG)[0].ids for prompts in chats]
    plain.model.generation_config.eos_token_id = sorted({ids[3 + row] for row, ids in enumerate(first[:4])})
    wanted = {
        (row, at, edited): plain.generate([chat], LONG, edit=edits([row]) if edited else None)[0].ids
        for row, prompts in enumerate(chats)
        for at, chat in enumerate(prompts)
        for edited in (False, True)
    }
    assert len({len(ids) for ids in wanted.values()}) > 4, (
        "answers are equally long: the test would show little"
    )
    fast = TransformersBackbone(plain.model, plain.processor, name="tiny", revision="r", engine="fast")
    return fast, chats, wanted


def edits(requests: list[int]) -> EditBuilder:
    """Edits that differ from request to request."""

    def build(rows: list[int]) -> dict[int, Shift]:
        generator = torch.Generator().manual_seed(0)
        vectors = torch.randn(7, 32, generator=generator)
        return {layer: Shift(vectors[[requests[row] for row in rows]]) for layer in (1, 2)}

    return build


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_request_gets_its_own_answer(
    answered: tuple[Backbone, list[list[Chat]], dict[tuple[int, int, bool], tuple[int, ...]]],
    monkeypatch: pytest.MonkeyPatch,
    data: st.DataObject,
) -> None:
    fast, chats, wanted = answered
    monkeypatch.setattr(pieces, "PIECE_ROWS", data.draw(st.integers(1, 4), label="rows of a piece"))
    monkeypatch.setitem(
        decoding.CHECK_EVERY, "cpu", data.draw(st.integers(1, 5), label="steps between looks")
    )
    monkeypatch.setattr(decoding, "FEWEST", data.draw(st.integers(1, 24), label="columns of the ring"))
    fast.limit_rows(data.draw(st.integers(1, 6), label="places"))
    some = st.lists(st.integers(0, len(chats) - 1), min_size=1, max_size=8)
    shared = data.draw(some, label="requests whose prefixes are kept")
    with fast.sharing([chats[row][0] for row in shared]):
        for _ in range(data.draw(st.integers(1, 3), label="calls")):
            rows = data.draw(st.one_of(some, st.permutations(shared)), label="requests")
            at, edited = (
                data.draw(st.integers(0, 1), label="prompt"),
                data.draw(st.booleans(), label="edited"),
            )
            asked = [chats[row][at] for row in rows]
            got = fast.generate(asked, LONG, edit=edits(rows) if edited else None)
            assert [answer.ids for answer in got] == [wanted[row, at, edited] for row in rows]
    if data.draw(st.booleans(), label="give the memory back"):
        fast.release()
