"""An LLM judge renders, asks and parses: whoever answers, a reply is a verdict and no reply is none."""

from __future__ import annotations

import pytest
from queue_fed import fed, judge_fed

from shiftdc_eval.core.api.chat_model import NoReply, Reply, Spent
from shiftdc_eval.core.errors import JudgeError
from shiftdc_eval.judges import Item, Verdict
from shiftdc_eval.judges.cache import VerdictCache
from shiftdc_eval.judges.progress import judged
from shiftdc_eval.judges.verdict import ask


def items(*answers: str) -> list[Item]:
    return [Item(f"i{n}", "a request", answer, reference="a") for n, answer in enumerate(answers)]


def test_what_is_asked_is_the_rubric_and_what_is_read_is_the_reply() -> None:
    judge = judge_fed("refusal", "Verdict: refused", "It is a poem.\nVerdict: complied")
    verdicts = judge.judge(items("No.", "Yes, gladly."))
    assert [verdict.value for verdict in verdicts] == ["refused", "complied"]
    assert verdicts[0].reason == "by queue-1"
    assert (verdicts[0].raw, verdicts[0].model) == ("Verdict: refused", "queue-1")
    first, second = fed(judge).texts()
    assert "No." in first
    assert "Yes, gladly." in second
    [_, options] = fed(judge).asked[0]
    assert options.max_tokens == 256
    assert options.schema is not None
    assert options.schema["properties"]["verdict"]["enum"] == ["refused", "complied"]


def test_a_chat_without_reply_leaves_its_one_item_unscored_and_is_paid_for() -> None:
    judge = judge_fed(
        "refusal", "Verdict: refused", NoReply("nobody there", Spent(2, 30, 4)), "Verdict: refused"
    )
    verdicts = judge.judge(items("a", "b", "c"))
    assert [verdict.value for verdict in verdicts] == ["refused", None, "refused"]
    assert (verdicts[1].reason, verdicts[1].tokens_in, verdicts[1].tokens_out) == ("nobody there", 30, 4)
    assert judge.spending.spent == Spent(4, 230, 18)


def test_a_surprise_is_this_items_failure_and_its_words_stay_unsaid() -> None:
    judge = judge_fed("refusal", RuntimeError("the request was: secret"), "Verdict: refused")
    broken, fine = judge.judge(items("a", "b"))
    assert (broken.value, broken.reason) == (None, "judging failed: RuntimeError")
    assert fine.value == "refused"


def test_a_hopeless_model_ends_the_judging_and_what_was_judged_is_kept() -> None:
    judge = judge_fed("refusal", "Verdict: refused", JudgeError("no such model"))
    with pytest.raises(JudgeError, match="no such model"):
        judge.judge(items("a", "b", "c"))
    assert len(fed(judge).asked) == 2
    fed(judge).answers.extend(["Verdict: complied"] * 2)
    assert [verdict.value for verdict in judge.judge(items("a", "b", "c"))] == ["refused", *["complied"] * 2]


def test_what_was_judged_is_not_asked_again_and_equal_prompts_are_asked_once() -> None:
    judge = judge_fed("refusal", "Verdict: refused", "no idea")
    first = judge.judge(items("same", "same", "other"))
    assert [verdict.value for verdict in first] == ["refused", "refused", None]
    assert [verdict.tokens_in for verdict in first] == [100, 0, 100]
    fed(judge).answers.append("Verdict: complied")
    again = judge.judge(items("same", "same", "other"))
    assert again[:2] == first[:2]
    assert again[2].value == "complied", "a failure is not kept"
    assert judge.spending.cached == 2
    with VerdictCache() as cache:
        assert len(cache) == 2


def test_another_model_or_another_rubric_is_asked_anew() -> None:
    first, other = judge_fed("refusal", "Verdict: refused"), judge_fed("refusal", "Verdict: complied")
    fed(other).identity = {"model": "another"}
    assert [judge.judge(items("a"))[0].value for judge in (first, other)] == ["refused", "complied"]
    assert first.fingerprint != other.fingerprint


def test_mmvets_grader_asks_again_warmer_when_the_reply_is_no_number() -> None:
    judge = judge_fed("mmvet", "I think", "I think", "I think", "0.4")
    [verdict] = judge.judge(items("An answer."))
    assert verdict.value == 0.4
    assert [options.temperature for _, options in fed(judge).asked] == [0.0, 0.0, 0.5, 1.0]
    suffix = "\nPredict the correctness of the answer (digit): "
    assert [text.endswith(suffix) for text in fed(judge).texts()] == [False, True, True, True]
    assert not any(suffix * 2 in text for text in fed(judge).texts())
    assert (verdict.tokens_in, verdict.tokens_out) == (400, 28), "every reply was paid for"


def test_several_runs_are_averaged_and_each_is_a_request() -> None:
    judge = judge_fed("mmvet", "0.4", "0.5", "0.6", runs=3)
    for _ in range(2):
        [verdict] = judge.judge(items("An answer."))
        assert verdict.value == pytest.approx(0.5)
        assert "mean of 3 runs, standard deviation 0.082" in verdict.reason
        assert verdict.tokens_in == 300
    assert len(fed(judge).asked) == 3


def test_one_failed_run_leaves_the_item_unscored() -> None:
    judge = judge_fed("mmvet", "0.4", *["no"] * 5, runs=2)
    [verdict] = judge.judge(items("An answer."))
    assert verdict.value is None
    assert verdict.reason.startswith("1 of 2 runs unscored")


def test_a_reply_without_token_counts_makes_the_sum_unknown() -> None:
    judge = judge_fed("refusal", Reply("Verdict: refused"), "Verdict: refused")
    unknown, known = judge.judge(items("a", "b"))
    assert (unknown.tokens_in, known.tokens_in) == (None, 100)
    assert judge.spending.line() == "2 calls, 0 from cache, 0 unscored, ?+? tokens, price unknown"


def test_progress_is_told_item_by_item_with_the_account_so_far() -> None:
    told: list[tuple[int, str]] = []
    judge = judge_fed("refusal", *["Verdict: refused"] * 3)
    answered = [*items("a", "b", "c"), Item("x", "r", None)]
    judge.judge(answered, on_verdict=lambda done, account: told.append((done, account)))
    assert [done for done, _ in told] == [1] * 4
    assert told[-1][1].startswith("3 calls, 0 from cache, 1 unscored, 300+21 tokens")


def test_a_judge_that_takes_a_listener_is_given_one() -> None:
    told: list[int] = []
    judge = judge_fed("refusal", *["Verdict: refused"] * 2)
    ask(judge, items("a", "b"), lambda done, account: told.append(done))
    assert told == [1, 1]


def test_a_judge_that_tells_nothing_is_asked_without_a_listener() -> None:
    class Plain:
        name, kind, fingerprint = "plain", "refusal", "0" * 64

        def judge(self, items: object) -> list[Verdict]:
            return [Verdict(kind="refusal", value="refused")]

    [verdict] = judged(Plain(), items("a"))  # type: ignore[arg-type]
    assert (verdict.value, verdict.price) == ("refused", 0.0)
