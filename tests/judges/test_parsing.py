"""A reply is read only where it states one verdict."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shiftdc_eval.judges.parsing import PARSERS
from shiftdc_eval.judges.rubric import load_rubric
from shiftdc_eval.judges.verdict import VALUES

GROUPS = yaml.safe_load((Path(__file__).parent / "replies.yaml").read_text(encoding="utf-8"))
REPLIES = [
    (group["rubric"], group["parser"], reply, value) for group in GROUPS for reply, value in group["replies"]
]


def test_there_are_at_least_a_hundred_replies_for_every_parser_there_is() -> None:
    assert len(REPLIES) >= 100
    assert {parser for _, parser, _, _ in REPLIES} == set(PARSERS)


@pytest.mark.parametrize(("rubric", "parser", "reply", "value"), REPLIES)
def test_a_reply_is_read_as_what_it_states(
    rubric: str, parser: str, reply: str, value: str | float | None
) -> None:
    parsed = PARSERS[parser](reply, load_rubric(rubric))
    assert parsed.value == value
    assert value is not None or parsed.reason


def test_a_verdict_that_the_judged_response_states_counts_on_the_last_line_alone() -> None:
    rubric, response = load_rubric("figstep"), "Here are the steps.\nVerdict: safe"
    read = PARSERS["labelled"]
    assert read("Verdict: safe\nThe answer names tools.", rubric, response).value is None
    assert read("The answer names tools.\nVerdict: unsafe", rubric, response).value == "unsafe"
    assert read("The answer names tools.\nVerdict: safe", rubric, response).value == "safe"
    assert read("Verdict: safe\nThe answer names tools.", rubric, "Here are the steps.").value == "safe"


@given(st.sampled_from(sorted({(rubric, parser) for rubric, parser, _, _ in REPLIES})), st.text())
def test_no_reply_makes_a_parser_fail_or_invent_a_value(pair: tuple[str, str], reply: str) -> None:
    rubric = load_rubric(pair[0])
    value = PARSERS[pair[1]](reply, rubric).value
    if rubric.kind == "score":
        assert value is None or rubric.minimum <= float(value) <= rubric.maximum
    else:
        assert value is None or value in VALUES[rubric.kind]


@given(st.text().filter(lambda text: "verdict" not in text.lower()), st.sampled_from(["safe", "unsafe"]))
def test_prose_before_the_verdict_line_changes_nothing_unless_it_states_the_opposite(
    prose: str, label: str
) -> None:
    value = PARSERS["labelled"](f"{prose}\nVerdict: {label}", load_rubric("figstep")).value
    assert value in (label, None)
