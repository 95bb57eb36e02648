"""Rows that end early, places that are filled again, and memory that is given back: same tokens as the plain path."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings, ModelSpec, load_backbone
from shiftdc_eval.backbones.fast import decoding, pieces, slots
from shiftdc_eval.backbones.fast.engine import FastEngine
from shiftdc_eval.backbones.fast.selfcheck import disagreement, failure
from shiftdc_eval.backbones.fast.stepping import Stepper
from shiftdc_eval.backbones.transformers_backbone import TransformersBackbone
from shiftdc_eval.core.errors import ConfigError, ModelError
from shiftdc_eval.steering import Scope, Shift

LONG = GenerationSettings(max_new_tokens=24)
FORBIDDEN_IN_CAPTURES = {
    "_local_scalar_dense",
    "equal",
    "lift_fresh",
    "masked_select",
    "nonzero",
    "scalar_tensor",
    "unique_dim",
    "_unique2",
}
"""Operators that wait for the device or make a tensor on the host."""


@pytest.fixture
def plain(tiny_llava: Path) -> Backbone:
    return load_backbone(ModelSpec(str(tiny_llava), device="cpu", engine="plain"))


@pytest.fixture
def fast(plain: Backbone) -> Backbone:
    return TransformersBackbone(
        plain.model, plain.processor, name=plain.name, revision=plain.revision, engine="fast"
    )


def picture(seed: int) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (30, 40, 3), generator=generator, dtype=torch.uint8).numpy())


def image_chats(count: int = 10) -> list[Chat]:
    """Requests of unequal length, with one image or two."""
    return [
        Chat.ask("describe " * (1 + 5 * seed % 7), [picture(seed), picture(90 + seed)][: 1 + seed % 3 % 2])
        for seed in range(count)
    ]


def end_early(backbone: Backbone, chats: list[Chat]) -> list[int]:
    """Make answers end at different tokens; the lengths that follow."""
    ids = [answer.ids for answer in backbone.generate(chats, LONG)]
    common = [token for token, _ in Counter(token for row in ids for token in set(row[3:])).most_common(4)]
    backbone.model.generation_config.eos_token_id = common
    return [len(answer.ids) for answer in backbone.generate(chats, LONG)]


@pytest.mark.parametrize("rows", [None, 1, 3, 4])
def test_places_of_finished_rows_are_filled_again_and_change_no_answer(
    plain: Backbone, fast: Backbone, monkeypatch: pytest.MonkeyPatch, rows: int | None
) -> None:
    monkeypatch.setattr(pieces, "PIECE_ROWS", 2)
    monkeypatch.setitem(decoding.CHECK_EVERY, "cpu", 2)
    chats = image_chats()
    assert len(set(end_early(plain, chats))) > 3, "all answers are equally long: the test would show nothing"
    steps = []
    stepper = fast.fast.stepper
    monkeypatch.setattr(type(stepper), "__call__", counted(type(stepper).__call__, steps))
    fast.limit_rows(rows or len(chats))
    wanted, got = plain.generate(chats, LONG), fast.generate(chats, LONG)
    assert [answer.ids for answer in got] == [answer.ids for answer in wanted]
    assert [answer.text for answer in got] == [answer.text for answer in wanted]
    if rows is None:
        assert min(steps) < max(steps), "finished rows were stepped to the end"
    else:
        assert max(steps) == rows


def counted(call: object, steps: list[int]) -> object:
    def counting(self: object, rows: int, columns: int) -> torch.Tensor:
        steps.append(rows)
        return call(self, rows, columns)  # type: ignore[operator, no-any-return]

    return counting


@pytest.mark.parametrize("rows", [3, 10])
def test_columns_that_no_answer_has_reached_are_not_attended_to(
    plain: Backbone, fast: Backbone, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(pieces, "PIECE_ROWS", 2)
    monkeypatch.setattr(decoding, "FEWEST", 4)
    chats, longer = image_chats(), GenerationSettings(max_new_tokens=70)
    end_early(plain, chats)
    fast.limit_rows(rows)
    got = fast.generate(chats, longer)
    widths = [columns for _, _, columns in fast.fast.stepper.steps]
    assert [answer.ids for answer in got] == [answer.ids for answer in plain.generate(chats, longer)]
    assert min(widths) < max(widths)
    assert max(widths) <= fast.fast.slots.columns
    if rows == len(chats):
        assert widths == sorted(widths)


def test_sampled_answers_are_the_plain_paths_in_any_place(
    plain: Backbone, fast: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE_ROWS", 2)
    chats = image_chats(7)
    end_early(plain, chats)
    settings = GenerationSettings(max_new_tokens=16, do_sample=True, temperature=0.8, top_p=0.95, top_k=50)
    seeds = [f"seed {row}" for row in range(len(chats))]
    fast.limit_rows(3)
    wanted, got = (backbone.generate(chats, settings, seeds=seeds) for backbone in (plain, fast))
    assert [answer.ids for answer in got] == [answer.ids for answer in wanted]


def test_a_stop_string_ends_an_answer_at_the_token_that_completes_it(plain: Backbone, fast: Backbone) -> None:
    chats = image_chats(6)
    whole = plain.generate(chats, LONG)
    stops = sorted({answer.text[at : at + 2] for answer in whole[:4] for at in (5, 9)} - {""})
    plain.model.generation_config.stop_strings = stops
    alone = [plain.generate([chat], LONG)[0] for chat in chats]
    assert len({answer.tokens_out for answer in alone}) > 2, (
        "no answer is ended early: this would show nothing"
    )
    assert fast.engine == "fast"
    for got in (plain.generate(chats, LONG), fast.generate(chats, LONG)):
        assert [(answer.ids, answer.text) for answer in got] == [
            (answer.ids, answer.text) for answer in alone
        ]
        assert not any(stop in answer.text for answer in got for stop in stops)


def test_prefixes_survive_rows_that_close_ranks(
    plain: Backbone, fast: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(decoding.CHECK_EVERY, "cpu", 1)
    chats = image_chats(8)
    captions = [chat.with_request(f"a list {chat.request}") for chat in chats]
    end_early(plain, captions)
    calls = [captions, chats, captions[::-3], chats[::2], chats, captions]
    wanted = [plain.generate(asked, LONG) for asked in calls]
    with fast.sharing(chats):
        got = [fast.generate(asked, LONG) for asked in calls]
        assert fast.fast.prefixes.made == len(chats)
    for some, others in zip(got, wanted, strict=True):
        assert [answer.ids for answer in some] == [answer.ids for answer in others]


def test_two_requests_about_the_same_image_object_each_get_their_answer(
    plain: Backbone, fast: Backbone
) -> None:
    image = picture(0)
    chats = [
        Chat.ask("hello", [image]),
        Chat.ask("hello", [image]),
        Chat.ask("describe", [image, picture(1)]),
    ]
    with fast.sharing(chats):
        for _ in range(2):
            got = fast.generate(chats, LONG)
            assert [answer.ids for answer in got] == [answer.ids for answer in plain.generate(chats, LONG)]


def test_another_image_with_the_same_text_does_not_find_the_prefix(plain: Backbone, fast: Backbone) -> None:
    first, second = Chat.ask("hello", [picture(0)]), Chat.ask("hello", [picture(1)])
    with fast.sharing([first, second]):
        fast.generate([first], LONG)
        assert fast.generate([second], LONG)[0].ids == plain.generate([second], LONG)[0].ids
        assert fast.fast.prefixes.reused == 0
    with fast.sharing([first]):
        fast.generate([first], LONG)
        assert fast.fast.prefixes.reused == 0, "a prefix outlived the requests that it was kept for"


def test_rows_that_do_not_fit_into_memory_together_are_answered_without_sharing(
    plain: Backbone, fast: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    chats = image_chats(6)
    monkeypatch.setattr(type(fast.fast), "capacity", lambda self, columns: 4)
    with fast.sharing(chats):
        got = fast.generate(chats, LONG)
        measured = fast.last_token_activations(chats)
    assert [answer.ids for answer in got] == [answer.ids for answer in plain.generate(chats, LONG)]
    torch.testing.assert_close(measured, plain.last_token_activations(chats), rtol=1e-4, atol=1e-4)
    assert fast.fast.prefixes.made == 0
    assert fast.fast.slots.rows == 4


def test_memory_is_given_back_and_taken_again(plain: Backbone, fast: Backbone) -> None:
    chats = image_chats(3)
    before = fast.generate(chats, LONG)
    assert fast.fast.slots.keys
    fast.release()
    assert not fast.fast.slots.keys
    assert [answer.ids for answer in fast.generate(chats, LONG)] == [answer.ids for answer in before]


def test_memory_keeps_what_is_asked_for_when_it_grows() -> None:
    memory = slots.Slots(layers=2, heads=1, size=3, dtype=torch.float32, device=torch.device("cpu"))
    memory.reserve(2, 10)
    assert memory.columns == 16
    memory.keys[1][1, 0, 4] = 7.0
    memory.reserve(3, 30, keep=5)
    assert memory.keys[1][1, 0, 4].tolist() == [7.0] * 3
    assert memory.keys[0].shape == (3, 1, 32, 3)
    memory.most = lambda columns: 4
    memory.reserve(5, 20)
    assert memory.keys[0].shape == (5, 1, 32, 3)
    memory.reserve(2, 60)
    assert memory.keys[0].shape == (2, 1, 64, 3), "rows that do not fit beside more columns were kept"
    assert memory.bytes_per_token == 2 * 2 * 3 * 4


def test_one_new_token_needs_no_decode_step(plain: Backbone, fast: Backbone) -> None:
    one = GenerationSettings(max_new_tokens=1)
    chats = image_chats(3)
    got = fast.generate(chats, one)
    assert [answer.ids for answer in got] == [answer.ids for answer in plain.generate(chats, one)]


def test_what_the_engine_does_not_do_is_done_by_the_plain_path(plain: Backbone, fast: Backbone) -> None:
    chats = image_chats(2)

    def edit(_rows: list[int]) -> dict[int, Shift]:
        return {1: Shift(torch.ones(32))}

    uncached = GenerationSettings(max_new_tokens=6, use_cache=False)
    cached = GenerationSettings(max_new_tokens=6)
    for settings, more in (
        (uncached, {"edit": edit}),
        (cached, {"edit": edit, "scope": Scope(passes="every")}),
    ):
        wanted, got = (backbone.generate(chats, settings, **more) for backbone in (plain, fast))  # type: ignore[arg-type]
        assert [answer.ids for answer in got] == [answer.ids for answer in wanted]
    assert "fast" not in vars(fast), "the fast engine was used"


@pytest.mark.parametrize(
    ("setting", "value"),
    [("repetition_penalty", 1.3), ("no_repeat_ngram_size", 2), ("min_new_tokens", 5)],
)
def test_settings_of_the_model_that_change_answers_are_left_to_the_plain_path(
    plain: Backbone, setting: str, value: object
) -> None:
    setattr(plain.model.generation_config, setting, value)
    chosen = TransformersBackbone(plain.model, plain.processor, name="tiny", revision="r")
    assert chosen.engine == "plain"
    assert setting in (chosen.fast_refusal or "")


def test_a_prompt_longer_than_a_sliding_window_is_left_to_the_plain_path(tmp_path: Path) -> None:
    from tiny_families import save_family

    backbone = load_backbone(ModelSpec(str(save_family("pixtral", tmp_path / "pixtral")), device="cpu"))
    assert backbone.engine == "fast"
    backbone.model.config.text_config.sliding_window = 12
    chats = [Chat.ask("a list of steps " * 6, [picture(0)])]
    with backbone.sharing(chats):
        backbone.generate(chats, LONG)
        backbone.last_token_activations(chats)
    assert not backbone.fast.slots.keys, "the fast engine was used"


def test_an_edit_of_a_layer_that_does_not_exist_says_so(fast: Backbone) -> None:
    with pytest.raises(ModelError, match="layer 9 does not exist"):
        fast.generate(image_chats(2), LONG, edit=lambda _rows: {9: Shift(torch.ones(32))})


def test_the_engine_can_be_chosen_later_and_plain_is_plain(fast: Backbone) -> None:
    fast.choose_engine("plain")
    assert (fast.engine, fast.fast_refusal) == ("plain", "engine=plain was asked for")
    fast.model.generation_config.repetition_penalty = 2.0
    with pytest.raises(ConfigError, match="repetition_penalty"):
        fast.choose_engine("fast")


@pytest.mark.parametrize(
    "text", ["what is <image> for", "</s> and <s>", "<pad><image><image>", "a plain text"]
)
def test_a_request_that_spells_out_a_control_token_is_plain_text_and_fails_nobody(
    plain: Backbone, fast: Backbone, text: str
) -> None:
    chats = [Chat.ask("hello", [picture(0)]), Chat.ask(text, [picture(1)])]
    image_id = plain.tokenizer.convert_tokens_to_ids("<image>")
    ids = plain.encode(chats).inputs["input_ids"]
    assert (ids == image_id).sum(-1).tolist() == [4, 4]
    special = set(plain.tokenizer.all_special_ids) - {image_id, plain.tokenizer.pad_token_id}
    assert not special & set(ids[1].tolist())
    for asked in (chats, [chat.without_images() for chat in chats]):
        wanted, got = plain.generate(asked, LONG), fast.generate(asked, LONG)
        assert [answer.ids for answer in got] == [answer.ids for answer in wanted]


def test_memory_that_grows_while_activations_are_read_can_be_written_by_the_next_answer(
    plain: Backbone, fast: Backbone
) -> None:
    chats = image_chats(3)
    one = GenerationSettings(max_new_tokens=1)
    with fast.sharing(chats):
        fast.generate(chats, one)
        fast.last_token_activations([chat.with_request("a list " * 60) for chat in chats])
        got = fast.generate(chats, one)
    with torch.inference_mode():
        fast.generate(image_chats(4), LONG)
    again = fast.generate(chats, one)
    wanted = [answer.ids for answer in plain.generate(chats, one)]
    assert [answer.ids for answer in got] == wanted
    assert [answer.ids for answer in again] == wanted


@pytest.mark.parametrize("shared", [False, True])
def test_what_a_broken_row_left_behind_does_not_reach_the_next_row_in_its_place(
    plain: Backbone, fast: Backbone, shared: bool
) -> None:
    chats = image_chats(3)
    fast.generate(chats, GenerationSettings(max_new_tokens=60))
    for layer in (*fast.fast.slots.keys, *fast.fast.slots.values):
        layer.fill_(torch.nan)
    with fast.sharing(chats if shared else []):
        got = fast.generate(chats, LONG)
    assert [answer.ids for answer in got] == [answer.ids for answer in plain.generate(chats, LONG)]


def test_a_prefix_is_forgotten_with_its_image_though_others_are_still_kept(fast: Backbone) -> None:
    outer, inner = [Chat.ask("hello", [picture(0)])], [Chat.ask("hello", [picture(1)])]
    with fast.sharing(outer):
        fast.generate(outer, LONG)
        with fast.sharing(inner):
            fast.generate([outer[0], inner[0]], LONG)
        made = fast.fast.prefixes.made
        fast.generate(outer, LONG)
        assert fast.fast.prefixes.made == made, "a prefix that is still wanted was forgotten"
        with fast.sharing(inner):  # a new image may have the identity that a freed one had
            fast.generate(inner, LONG)
        assert fast.fast.prefixes.made == made + 1


@pytest.mark.parametrize("keep", [0, 8])
def test_memory_that_could_not_be_had_leaves_no_layers_of_two_sizes(
    monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    memory = slots.Slots(layers=3, heads=1, size=3, dtype=torch.float32, device=torch.device("cpu"))
    memory.reserve(2, 16)
    real, calls = torch.zeros, []

    def zeros(*shape: object, **more: object) -> torch.Tensor:
        calls.append(shape)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("no more")
        return real(*shape, **more)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(torch, "zeros", zeros)
    with pytest.raises(torch.OutOfMemoryError):
        memory.reserve(4, 16, keep=keep)
    assert (memory.keys, memory.values, memory.rows, memory.columns) == ([], [], 0, 0)
    memory.reserve(2, 16)
    assert [layer.shape[0] for layer in memory.keys] == [2, 2, 2]


def test_graphs_share_memory_only_while_one_of_them_is_alive(
    fast: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Graph:
        pass

    handles = iter(range(9))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(handles))
    stepper = fast.fast.stepper
    assert stepper._shared_pool() == 0
    graph = Graph()
    stepper._graphs.add(graph)
    assert stepper._shared_pool() == 0
    del graph
    assert stepper._shared_pool() == 1


@pytest.mark.parametrize(("failures", "how"), [(0, "graph"), (1, "graph"), (2, "eager")])
def test_a_capture_that_fails_is_tried_again_and_costs_its_own_shape_alone(
    fast: Backbone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failures: int, how: str
) -> None:
    stepper, left = fast.fast.stepper, iter(range(failures))

    def graph(run: object) -> object:
        stepper._pool = "recording"
        for _ in left:
            raise ValueError("operation not permitted")
        return run

    ended: list[object] = []
    monkeypatch.setattr(stepper, "_graph", graph)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda _device, pool: ended.append(pool))
    stepper.mode = "graph"
    assert stepper._recorded(lambda: torch.ones(1), (4, 64))[0] == how
    assert stepper._recorded(lambda: torch.ones(1), (8, 64))[0] == "graph"
    assert stepper.mode == "graph"
    assert ended == ["recording"] * failures
    assert caplog.text.count("4 rows and 64 columns") == failures
    assert caplog.text.count("ValueError: operation not permitted") == failures


class Operators(TorchDispatchMode):
    """Counts the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: object, types: object, args: tuple[object, ...] = (), kwargs: object = None
    ) -> object:
        self.seen[func._schema.name.split("::")[1]] += 1  # type: ignore[attr-defined]
        return func(*args, **(kwargs or {}))  # type: ignore[operator]


def test_a_decode_step_does_nothing_that_cannot_be_recorded(
    fast: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, operators = Stepper._forward, Operators()

    def watched(self: Stepper, rows: int, columns: int, cache: object) -> torch.Tensor:
        with operators:
            return forward(self, rows, columns, cache)

    monkeypatch.setattr(Stepper, "_forward", watched)
    fast.generate(image_chats(3), GenerationSettings(max_new_tokens=2))
    assert operators.seen["index_copy_"] == 2 * len(fast.layers)
    assert not FORBIDDEN_IN_CAPTURES & set(operators.seen)


def test_memory_that_is_out_during_a_capture_is_said_and_not_stepped_around(
    fast: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def graph(_run: object) -> object:
        try:
            raise torch.OutOfMemoryError("no more")
        finally:
            raise RuntimeError("capture was invalidated")

    monkeypatch.setattr(fast.fast.stepper, "_graph", graph)
    with pytest.raises(torch.OutOfMemoryError, match="no more"):
        fast.fast.stepper._recorded(lambda: torch.ones(1), (4, 64))


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_that_do_not_fit_together_are_not_all_encoded_twice(
    plain: Backbone, fast: Backbone, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(pieces, "PIECE_ROWS", 4)
    monkeypatch.setattr(type(fast.fast), "capacity", lambda self, columns: rows)
    chats, encoded = image_chats(20), []
    features = fast.features

    def counting(asked: list[Chat]) -> object:
        encoded.append(len(asked))
        return features(asked)

    monkeypatch.setattr(fast, "features", counting)
    got = fast.generate(chats, LONG)
    assert [answer.ids for answer in got] == [answer.ids for answer in plain.generate(chats, LONG)]
    assert sum(encoded) <= len(chats) + (pieces.AHEAD + 1) * 4


@pytest.mark.parametrize("path", ["_streamed", "_shared"])
@pytest.mark.parametrize("wrong", ["position", "nan"])
def test_the_self_check_looks_at_whole_prompts_and_at_stored_prefixes(
    fast: Backbone, monkeypatch: pytest.MonkeyPatch, path: str, wrong: str
) -> None:
    assert disagreement(fast) < 1e-4
    answer = getattr(FastEngine, path)

    def broken(self: FastEngine, rows: object, loop: decoding.Loop, edits: object) -> None:
        seat = loop.seat

        def seated(
            at: list[int], row: list[int], seen: torch.Tensor, positions: torch.Tensor, logits: torch.Tensor
        ) -> None:
            if wrong == "position":
                positions = positions + 3
            else:
                logits = logits.clone()
                logits[-1] = torch.nan
            seat(at, row, seen, positions, logits)

        monkeypatch.setattr(loop, "seat", seated)
        answer(self, rows, loop, edits)

    monkeypatch.setattr(FastEngine, path, broken)
    assert "differ" in (failure(fast) or "")


def test_rows_that_fit_leave_room_for_logits_and_for_the_vision_tower(
    fast: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fast.fast
    monkeypatch.setattr(type(fast), "device", torch.device("cuda"))
    for name in ("memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda _device: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (2 << 30, 2 << 30))
    before = engine.capacity(64)
    assert before % 8 == 0
    monkeypatch.setattr(engine, "_logits", lambda: 64 * engine.slots.bytes_per_token)
    room = engine.capacity(64)
    assert before / 2.1 < room < before / 1.5, "logits are not counted by the row"
    monkeypatch.setattr(engine, "_vision", lambda _columns: 1 << 28)
    assert engine.capacity(64) < room / 1.5, "the vision tower is not counted"
