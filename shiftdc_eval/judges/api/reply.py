"""What a chat completions server sent back: a usable reply, or a fault and what to do about it."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Mapping
from typing import Any, Literal

from shiftdc_eval.judges.chat_model import NOTHING, NoReply, Reply, Spent

FaultKind = Literal["transient", "rate_limit", "final", "fatal"]
"""Ask again · ask again when the server says · this item cannot be judged · nothing can be judged."""

_TRANSIENT = frozenset({408, 409, 425, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
_FATAL = {
    401: "the API key was not accepted",
    403: "the API key may not use this model or address",
    404: "no such model or address",
}


class Fault(NoReply):
    """A request that brought no usable reply. Its text is ours: no word of the server is repeated in it."""

    def __init__(
        self,
        kind: FaultKind,
        reason: str,
        *,
        status: int = 0,
        wait: float | None = None,
        spent: Spent = NOTHING,
        unreachable: bool = False,
    ) -> None:
        super().__init__(reason, spent)
        self.kind = kind
        self.status = status
        self.wait = wait
        self.unreachable = unreachable


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds a Retry-After header asks to wait, given in seconds or as an HTTP date; None without one."""
    text = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())


def status_fault(status: int, headers: Mapping[str, str], code: str | None) -> Fault:
    """The fault that an HTTP error status is."""
    if status in _FATAL:
        return Fault("fatal", _FATAL[status], status=status)
    if status == 429 and code in ("insufficient_quota", "billing_hard_limit_reached"):
        return Fault("fatal", "the account's quota is used up", status=status)
    if status == 429:
        return Fault("rate_limit", "HTTP 429, rate limited", status=status, wait=retry_after(headers))
    kind: FaultKind = "transient" if status in _TRANSIENT else "final"
    return Fault(kind, f"HTTP {status}", status=status, wait=retry_after(headers))


def read_completion(body: bytes, cut_reply_counts: bool) -> Reply:
    """The reply in the body of a 200.

    Args:
        cut_reply_counts: take a reply that was cut at the token limit.

    Raises:
        Fault: the body is no chat completion, or its reply is missing, cut or filtered.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise Fault("transient", "HTTP 200 with a body that is not JSON", status=200) from None
    if not isinstance(data, dict) or ("error" in data and not data.get("choices")):
        raise Fault("transient", "HTTP 200 with a body that is no chat completion", status=200)
    spent = _spent(data.get("usage"))
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise Fault("transient", "the server's answer holds no choice", status=200, spent=spent)
    finish = choice.get("finish_reason")
    if finish == "content_filter":
        raise Fault("final", "the judge's content filter cut the reply", status=200, spent=spent)
    if message.get("refusal"):
        raise Fault("final", "the judge refused to judge", status=200, spent=spent)
    if finish == "length" and not cut_reply_counts:
        raise Fault("final", "the judge's reply was cut at the token limit", status=200, spent=spent)
    text = message.get("content")
    if not isinstance(text, str) or not text.strip():
        raise Fault("transient", "the judge's reply is empty", status=200, spent=spent)
    model = data.get("model")
    return Reply(text, model[:100] if isinstance(model, str) else "", spent)


def _spent(usage: Any) -> Spent:
    counts = [
        usage.get(key) if isinstance(usage, dict) else None for key in ("prompt_tokens", "completion_tokens")
    ]
    valid = [count if type(count) is int and count >= 0 else None for count in counts]
    return Spent(1, *valid)
