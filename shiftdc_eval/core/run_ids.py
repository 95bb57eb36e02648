"""Which run answered a request.

The adapter marks every request it answers, so that each sample row can name the run it came from. Another
lmms-eval model, in the same process or not, leaves no mark.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

RUN_MARK = "__shiftdc_run__"
"""Key of the run id in a request's metadata."""


def mark(requests: Iterable[Any], run_id: str) -> None:
    """Note on lmms-eval's requests which run answered them."""
    for request in requests:
        request.metadata = {**(request.metadata or {}), RUN_MARK: run_id}


def run_of(request: Any) -> str | None:
    """Id of the run that answered a request; None for models other than ours."""
    return (request.metadata or {}).get(RUN_MARK)
