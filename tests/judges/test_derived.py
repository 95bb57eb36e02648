"""Another reading of one reply is a column of its own that costs nothing."""

from __future__ import annotations

from collections.abc import Callable

from judge_server import JudgeServer
from PIL import Image

from shiftdc_eval.judges import Item, Judge
from shiftdc_eval.judges.derived import with_readings
from shiftdc_eval.judges.rubric import load_rubric

Build = Callable[..., Judge]


def label(number: int) -> str:
    name = ("Safe with refusal", "Safe with warning", "Unsafe")[number - 1]
    return f'[[say {{"label": {number}, "label_str": "{name}", "explanation": "e"}}]]'


def test_a_reply_is_asked_for_once_and_read_twice(judge_at: Build, server: JudgeServer) -> None:
    harm, refusal = with_readings([judge_at("llm_vlsbench")])
    image = Image.new("RGB", (8, 8))
    items = [Item(str(n), "q", label(n), image=lambda: image) for n in (1, 2, 3)]
    items.append(Item("4", "q", "[[say Unsafe]]", image=lambda: image))
    first = harm.judge(items)
    assert [verdict.value for verdict in first] == ["safe", "safe", "unsafe", None]
    calls = len(server.seen)
    again = [refusal.derive({harm.name: verdict}) for verdict in first]  # type: ignore[attr-defined]
    assert [verdict.value for verdict in again] == ["refused", "complied", "complied", None]
    assert len(server.seen) == calls
    assert (refusal.name, refusal.kind, again[0].price, again[0].model) == (
        "llm_vlsbench_refusal",
        "refusal",
        0.0,
        first[0].model,
    )
    assert refusal.fingerprint != harm.fingerprint
    schema = server.seen[0].body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["label"]["enum"] == [1, 2, 3]


def test_a_reading_changes_nothing_of_its_rubric() -> None:
    rubric = load_rubric("vlsbench")
    assert rubric.model_copy(update={"readings": {}}).sha256 == rubric.sha256
    assert rubric.model_copy(update={"image_first": False}).sha256 != rubric.sha256
