"""What `shiftdc-eval run` passes on of lmms-eval's output."""

import pytest

from shiftdc_eval.plugin.run import without_our_tracebacks

LOGGED = "\x1b[32m2026-11-29 12:00:00\x1b[0m | ERROR | Error during evaluation: alpha=big\n"
CAUSE = [
    "Traceback (most recent call last):\n",
    '  File "x.py", line 1, in f\n',
    "    raise\n",
    "pydantic_core.ValidationError: 1 validation error\n",
    "alpha\n",
    "  not a number\n",
    "\n",
    "The above exception was the direct cause of the following exception:\n",
    "\n",
]
OURS = ["Traceback (most recent call last):\n", '  File "y.py", line 2, in g\n', "    raise\n"]


@pytest.mark.parametrize(
    "raised",
    ["shiftdc_eval.core.errors.ConfigError: alpha=big\n", "ValueError: Tasks not found: figstepp.\n"],
)
def test_a_traceback_of_wrong_input_is_left_out_and_the_line_that_says_it_stays(raised: str) -> None:
    lines = ["before\n", *CAUSE, *OURS, raised, LOGGED, "after\n"]
    assert list(without_our_tracebacks(lines)) == ["before\n", LOGGED, "after\n"]


def test_any_other_traceback_is_shown_whole() -> None:
    caused_by_ours = [*OURS, "shiftdc_eval.core.errors.ConfigError: x\n", "\n", *OURS, "KeyError: 'x'\n"]
    for lines in ([*CAUSE, *OURS, "KeyError: 'x'\n"], caused_by_ours, CAUSE):
        for end in ([LOGGED], ["0%|   | 0/8\r", "more\n"], []):
            assert list(without_our_tracebacks([*lines, *end])) == [*lines, *end]


def test_a_traceback_that_nothing_follows_is_shown_even_where_it_is_ours() -> None:
    lines = [*OURS, "shiftdc_eval.core.errors.ModelError: x\n"]
    assert list(without_our_tracebacks(lines)) == lines
