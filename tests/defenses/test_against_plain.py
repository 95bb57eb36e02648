"""Every defense against a plain loop written from the specification alone, and that loop's misreadings.

The package answers several requests in one left-padded batch; the plain loop
(`plain_runs`, `plain_defenses`) takes one request at a time and uses nothing of the package.
"""

from __future__ import annotations

import pytest
from plain_bench import FAMILIES, Bench, distance, make_benches
from plain_cases import CASES, REQUESTS, RUNS

from shiftdc_eval.backbones import Chat

SAME = 1e-4
"""Largest difference, relative to a layer's largest activation, that rounding and padding may make."""
OTHER = 1e-3
"""Smallest difference that counts as another activation."""
PAIRS = [(name, wrong) for name, case in CASES.items() for wrong in case.wrong]


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bench]:
    """Both families."""
    return make_benches(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_requests_of_the_batch_are_padded_on_the_left(benches: dict[str, Bench], family: str) -> None:
    bench = benches[family]
    mask = bench.backbone.encode([Chat.ask(p.text, p.images) for p in REQUESTS]).inputs["attention_mask"]
    assert mask[:, -1].all()
    assert sorted(mask[:, 0].tolist()) == [0, 0, 1]
    lengths = [bench.plain.chat(prompt)["input_ids"].shape[1] for prompt in REQUESTS]
    assert mask.sum(dim=1).tolist() == lengths


@pytest.mark.parametrize(("family", "name"), RUNS)
def test_a_batch_is_answered_as_the_plain_loop_answers_each_request(
    benches: dict[str, Bench], family: str, name: str
) -> None:
    case, bench = CASES[name], benches[family]
    found = bench.answered(name)
    wanted = bench.reference(name, case.reference)
    if found.stream is not None and case.edits:
        assert distance(found.stream, wanted) < SAME
    assert found.texts == [answer.text for answer in wanted]


@pytest.mark.parametrize(("family", "name"), [run for run in RUNS if run[1] != "none"])
def test_the_defense_changes_an_answer(benches: dict[str, Bench], family: str, name: str) -> None:
    bench = benches[family]
    assert bench.answered(name).texts != bench.answered("none").texts


@pytest.mark.parametrize(("name", "wrong"), PAIRS, ids=[f"{name}: {wrong}" for name, wrong in PAIRS])
def test_a_misreading_is_noticed(benches: dict[str, Bench], name: str, wrong: str) -> None:
    case, bench = CASES[name], benches["llava"]
    found, misread = bench.answered(name), case.wrong[wrong]
    assert found.stream is not None
    if case.edits and distance(found.stream, bench.reference(f"{name}: {wrong}", misread, 1)) > OTHER:
        return
    texts = [answer.text for answer in bench.reference(f"{name}: {wrong}", misread)]
    assert found.texts != texts
