"""`python -m shiftdc_eval.plugin.lmms_process ARGUMENTS`: lmms-eval without tracebacks of wrong input.

lmms-eval prints the traceback of whatever ends a run, then one line with its message. Where the user's input
was wrong that line says everything; any other error keeps its traceback.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

from shiftdc_eval.core.errors import ShiftDCError

LMMS_MESSAGES = ("Tasks not found:", "Model '")
"""How the messages of lmms-eval's own ValueErrors about wrong input begin."""


def is_wrong_input(error: BaseException | None) -> bool:
    """Whether an error's message says all that the user needs."""
    return isinstance(error, ShiftDCError) or (
        isinstance(error, ValueError) and str(error).startswith(LMMS_MESSAGES)
    )


def unless_wrong_input(print_exc: Callable[..., None]) -> Callable[..., None]:
    """`traceback.print_exc` that leaves out wrong input."""

    def print_other(*args: Any, **options: Any) -> None:
        if not is_wrong_input(sys.exc_info()[1]):
            print_exc(*args, **options)

    return print_other


if __name__ == "__main__":
    from lmms_eval.__main__ import cli_evaluate

    traceback.print_exc = unless_wrong_input(traceback.print_exc)
    cli_evaluate()
