"""Prompts that hold the beginning of the answer: the prompt of an answer from its first word on, and this beginning.

Nothing in front of the answer changes: not the system prompt, which some templates leave out of a finished turn, and
not the white space behind the role.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from shiftdc_eval.backbones.chat import Chat
from shiftdc_eval.core.errors import ModelError
from shiftdc_eval.core.reasoning import TAGS

BEHIND = "{{ messages[-1]['begun'] }}"
"""Put at the end of a chat template."""
PROBE = "An answer"


def prompts(processor: Any, chats: Sequence[Chat]) -> dict[str, Any]:
    """What `apply_chat_template` is given to render chats as prompts.

    Raises:
        ModelError: an answer is begun that the template has no place for.
    """
    given: dict[str, Any] = {
        "conversation": [chat.messages() for chat in chats],
        "add_generation_prompt": True,
    }
    if not any(chat.begun for chat in chats):
        return given
    blank = separator(processor)
    for messages, chat in zip(given["conversation"], chats, strict=True):
        messages[-1]["begun"] = ("" if chat.begun[:1].isspace() else blank) * bool(chat.begun) + chat.begun
    return {**given, "chat_template": _template(processor)}


def separator(processor: Any) -> str:
    """White space between a model's prompt and its answer, as in the turns of its chat template.

    Raises:
        ModelError: the template opens a reasoning block in front of the answer, or cannot render an answer.
    """
    asked = {"role": "user", "content": [{"type": "text", "text": "request"}]}
    said = {"role": "assistant", "content": [{"type": "text", "text": PROBE}]}
    try:
        prompt = str(processor.apply_chat_template([asked], add_generation_prompt=True))
        turn = str(processor.apply_chat_template([asked, said]))
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"its chat template cannot render an answer: {error}") from error
    if opened := [tag for tag, _ in TAGS if prompt.rstrip().endswith(tag)]:
        raise ModelError(
            f"its chat template opens a reasoning block ({opened[0]}) in front of the answer, which cannot be begun "
            "therefore; take a model without reasoning"
        )
    before = turn.partition(PROBE)[0]
    blank = "" if prompt[-1:].isspace() else before[len(before.rstrip()) :]
    again = {**asked, "begun": blank + PROBE}
    found = processor.apply_chat_template(
        [again], add_generation_prompt=True, chat_template=_template(processor)
    )
    if PROBE not in turn or str(found) != prompt + blank + PROBE:
        raise ModelError("its chat template leaves out or changes the beginning of an answer")
    return blank


def _template(processor: Any) -> str:
    template = processor.chat_template
    return str(template["default"] if isinstance(template, dict) else template).removesuffix("\n") + BEHIND
