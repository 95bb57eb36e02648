"""Reading the response of a chat completions server: a usable reply, or a fault and how to handle it."""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from shiftdc_eval.core.api.chat_model import NOTHING, NoReply, Options, Reply, Spent
from shiftdc_eval.core.api.endpoint import masked
from shiftdc_eval.core.errors import Blame

FaultKind = Literal["transient", "rate_limit", "final", "fatal"]
"""Retry · retry when the server allows it · this item has no reply · no item will have one."""

_TRANSIENT = frozenset({408, 409, 425, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
_FATAL = {
    401: "the API key was not accepted",
    403: "the API key may not use this model or address",
    404: "no such model or address",
}
_FILTER = re.compile(
    r"content[ _]?filter|content[ _](?:management )?policy|moderation_blocked|data_?inspection_?failed"
    r"|ResponsibleAIPolicyViolation|requires moderation|rejected by (?:our|the) safety system"
    r"|\b(?:input|prompt|request|content|message)\b[^.]{0,40}\b(?:was|were|been) flagged",
    re.IGNORECASE,
)
"""What providers call their content filter in an error: Azure and OpenAI, Alibaba, OpenRouter."""
_FILTERED = ("content_filter", "safety", "prohibited_content")
"""How the `finish_reason` of a filtered reply begins."""


class Fault(NoReply):
    """A request that brought no usable reply."""

    def __init__(
        self,
        kind: FaultKind,
        reason: str,
        *,
        status: int = 0,
        wait: float | None = None,
        spent: Spent = NOTHING,
        unreachable: bool = False,
        blame: Blame | None = None,
        said: ServerError | None = None,
        filtered: bool = False,
    ) -> None:
        super().__init__(
            reason, spent, blame or ("request" if kind == "final" else "server"), filtered=filtered
        )
        self.kind = kind
        self.status = status
        self.wait = wait
        self.unreachable = unreachable
        self.said = said or ServerError()


@dataclass(frozen=True)
class ServerError:
    """What the body of an error says, in OpenAI's form."""

    code: str = ""
    param: str = ""
    message: str = ""

    @classmethod
    def read(cls, body: bytes) -> ServerError:
        """From a body that may be anything."""
        try:
            data = json.loads(body)
        except (ValueError, RecursionError):
            return cls()
        error = data.get("error", data) if isinstance(data, dict) else None
        if isinstance(error, dict) and "message" not in error:
            error = _detail(error.get("detail"))
        if isinstance(error, str):
            return cls(message=error)
        if not isinstance(error, dict):
            return cls()
        return cls(
            **{
                name: text
                for name in ("code", "param", "message")
                if isinstance(text := error.get(name), str)
            }
        )


def _detail(detail: Any) -> Any:
    """FastAPI's form of an error: a text, or a list of places and messages, of which the first counts."""
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        place = detail[0].get("loc")
        return {
            "param": str(place[-1]) if isinstance(place, list) and place else "",
            "message": detail[0].get("msg"),
        }
    return detail


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds a Retry-After header asks to wait, given in seconds or as an HTTP date; None without one that can be
    read.
    """
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
        return None if math.isnan(seconds) else max(0.0, seconds)
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def status_fault(status: int, headers: Mapping[str, str], body: bytes) -> Fault:
    """The fault that an HTTP status other than 2xx is."""
    said = ServerError.read(body)
    filtered = status in (400, 403, 422) and bool(_FILTER.search(f"{said.code} {said.param} {said.message}"))
    if status in _FATAL and not filtered:
        return Fault("fatal", _FATAL[status], status=status)
    if 300 <= status < 400:
        try:
            host = urlsplit(headers.get("location", "")).hostname
        except ValueError:
            host = None
        to = f" to {host}" if host else ""
        reason = f"the server redirects{to}, which is not followed; name the address it leads to as base_url"
        return Fault("fatal", reason, status=status)
    if status == 429 and said.code in ("insufficient_quota", "billing_hard_limit_reached"):
        return Fault("fatal", "the account's quota is used up", status=status)
    if status == 429:
        return Fault("rate_limit", "HTTP 429, rate limited", status=status, wait=retry_after(headers))
    if status in _TRANSIENT:
        return Fault("transient", f"HTTP {status}", status=status, wait=retry_after(headers))
    words = masked(": ".join(filter(None, [said.param, said.message])))
    reason = f"HTTP {status}" + (f": {words}" if words else "")
    blame: Blame = "item" if filtered else "request"
    return Fault("final", reason, status=status, blame=blame, said=said, filtered=filtered)


def read_completion(body: bytes, options: Options, who: str) -> Reply:
    """The reply in the body of a 200.

    Args:
        body: as it was received.
        options: what was asked for.
        who: whose reply it is, for errors.

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

    def unusable(reason: str, blame: Blame = "request", *, filtered: bool = False) -> Fault:
        return Fault("final", reason, status=200, spent=spent, blame=blame, filtered=filtered)

    finish = choice.get("finish_reason")
    if str(finish).lower().startswith(_FILTERED):
        raise unusable(f"the {who}'s content filter cut the reply", "item", filtered=True)
    refusal = message.get("refusal")
    if refusal and not options.is_answer:
        raise unusable(f"the {who} refused to judge", "item")
    if finish == "length" and not options.cut_reply_counts:
        raise unusable(f"the {who}'s reply was cut at the token limit")
    text, reasoning = _text(message), message.get("reasoning_content") or message.get("reasoning")
    reasoned = isinstance(reasoning, str) and bool(reasoning.strip())
    if not text and options.is_answer:
        if isinstance(refusal, str) and refusal.strip():
            text = refusal
        elif finish == "length" and reasoned:
            text = f"<think>{reasoning}"
        elif finish == "length":
            raise unusable(f"the {who}'s reply was cut at the token limit before it began", "item")
    if not text:
        raise Fault("transient", f"the {who}'s reply is empty", status=200, spent=spent)
    model = data.get("model")
    return Reply(text, model[:100] if isinstance(model, str) else "", spent, reasoned=reasoned)


def _text(message: Mapping[str, Any]) -> str:
    """The text of a message; empty where nothing stands in it."""
    text = message.get("content")
    if isinstance(text, list):  # some servers answer in parts
        text = "".join(str(part.get("text") or "") for part in text if isinstance(part, dict))
    return text if isinstance(text, str) and text.strip() else ""


def _spent(usage: Any) -> Spent:
    counts = [
        usage.get(key) if isinstance(usage, dict) else None for key in ("prompt_tokens", "completion_tokens")
    ]
    valid = [count if type(count) is int and count >= 0 else None for count in counts]
    return Spent(1, *valid)
