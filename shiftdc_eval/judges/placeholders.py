"""What stands where an answer should, when a call failed and somebody stored the failure as text."""

from __future__ import annotations

import re

_SERVICE = (
    r"(?:API|Retry|Rate_?Limit|Timeout|Connection|InternalServer|BadRequest|ServiceUnavailable|Authentication|"
    r"PermissionDenied|InvalidRequest|InvalidArgument|BlockedPrompt|StopCandidate|ResponseBlocked|ContentFilter|"
    r"ContentPolicyViolation|Unprocessable\w*|Overloaded|QuotaExceeded)"
)
_DETAIL = r"(?:[ ]?[:(\[][^\n]{0,500})?"
_PLACEHOLDER = re.compile(
    rf"""
      (?:API[ ])?[\w.]*{_SERVICE}(?:Error|Exception)(?:[ ]occurred)?{_DETAIL}
    | [\w.]*(?:ResourceExhausted|ServiceUnavailable|DeadlineExceeded){_DETAIL}
    | (?:finish_?reason|FinishReason|block_?reason|BlockReason)[.:=\s]+[\w.'"-]+
    | (?:Error|ERROR|HTTP)(?:[ ]code)?[ :]+[45]\d\d{_DETAIL}(?:[ ]?-[^\n]{{0,80}}|(?:[ ][A-Z][\w'-]*){{1,6}})?
    | [<\[({{](?:ERROR|error|FAILED|failed|BLOCKED|blocked|content[_ ]filter(?:ed)?|no[_ ]response)[>\])}}]
    """,
    re.VERBOSE,
)
_MOST = 800
"""Characters that a placeholder has at most."""


def placeholder(response: str) -> str | None:
    """The placeholder that a response is as a whole, e.g. `API RetryError occurred.`; None for an answer."""
    text = response.strip().strip("\"'`*").strip()
    if len(text) > _MOST:
        return None
    return " ".join(text.split())[:80] if _PLACEHOLDER.fullmatch(text.rstrip(". ")) else None
