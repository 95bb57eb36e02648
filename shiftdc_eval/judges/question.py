"""A rubric applied to an item: the chat that is sent, and how the reply is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from shiftdc_eval.core.api.chat_model import Message, Options, Reply
from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.images import load_image
from shiftdc_eval.judges.delimit import guard_version
from shiftdc_eval.judges.parsing import PARSERS
from shiftdc_eval.judges.rubric import ParserName, Rubric, fitted
from shiftdc_eval.judges.verdict import Item, Kind, Verdict, obstacle, unscored

Structured = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Question:
    """One rubric, asked verbatim or guarded."""

    rubric: Rubric
    guarded: bool = False
    """Enclose every judged text in markers (see `delimit`)."""

    @property
    def kind(self) -> Kind:
        """What the verdicts are about."""
        return self.rubric.kind

    @property
    def parser(self) -> ParserName:
        """Name of the parser that reads the replies."""
        return (self.guarded and self.rubric.guarded_parser) or self.rubric.parser

    def identity(self) -> dict[str, Any]:
        """The parts of rubric and guard that can change a verdict."""
        return {
            "rubric": self.rubric.fingerprint_data(),
            "guard": guard_version() if self.guarded else None,
        }

    @property
    def may_ask_schema(self) -> bool:
        """Whether the server may be asked for structured output."""
        return self.guarded or self.rubric.reply_schema is not None

    def obstacle(self, item: Item) -> Verdict | None:
        """The unscored verdict of an item that cannot be asked about, else None."""
        if self.rubric.about == "image" and item.image is not None:
            return None  # whatever the answer is
        return obstacle(item, self.kind, self.rubric.missing(item))

    def messages(self, item: Item, image: Image.Image | None = None) -> list[Message]:
        """The chat about an item; each guarded chat has a new marker code."""
        return self.rubric.messages(item, self.guarded, image=image)

    def content(self, item: Item) -> list[Message]:
        """The chat without image and marker code: equal for equal questions."""
        return self.rubric.messages(item, self.guarded, nonce="0" * 16)

    def options(self, temperature: float | None, structured: Structured) -> Options:
        """Options of the request."""
        return Options(
            max_tokens=self.rubric.max_tokens,
            temperature=temperature,
            cut_reply_counts=self.rubric.cut_reply_counts and not self.guarded,
            schema=None if structured == "off" else self._schema(),
            schema_needed=structured == "on",
        )

    def _schema(self) -> dict[str, Any] | None:
        """JSON schema of the reply, where the parser reads JSON; else None."""
        if self.rubric.reply_schema and not self.guarded:
            return self.rubric.reply_schema
        key = {"labelled": "verdict", "score": "score"}.get(self.parser)
        if key is None or not self.guarded:
            return None
        value: dict[str, Any] = (
            {"type": "string", "enum": list(self.rubric.labels)} if key == "verdict" else {"type": "number"}
        )
        return {
            "type": "object",
            "properties": {"why": {"type": "string"}, key: value},
            "required": ["why", key],
            "additionalProperties": False,
        }

    def read(self, reply: Reply, item: Item, notes: Sequence[str] = ()) -> Verdict:
        """The verdict that a reply states; unscored where it states none.

        Args:
            item: what was asked about: a verdict that its response states may be quoted in the reply.
            notes: what else the reason of a scored verdict should say.
        """
        parsed = PARSERS[self.parser](reply.text, self.rubric, item.response or "")
        said = [parsed.reason, *notes]
        if parsed.value is None:
            said = [parsed.reason or "the reply cannot be read"]
        if reply.cut_prompt:
            said.append("the prompt was cut on the left")
        reason = "; ".join(filter(None, said))
        return Verdict(kind=self.kind, value=parsed.value, reason=reason, raw=reply.text, model=reply.model)


@dataclass
class RubricJudge:
    """Base of the judges that ask by a rubric."""

    name: str
    question: Question

    @property
    def kind(self) -> Kind:
        """What its verdicts are about."""
        return self.question.kind

    @property
    def rubric(self) -> Rubric:
        """What it asks."""
        return self.question.rubric

    @property
    def rubric_sha256(self) -> str:
        """Hash of the rubric, whatever the model and its settings."""
        return self.rubric.sha256

    def prepared(self, item: Item) -> tuple[Image.Image | None, Verdict | None]:
        """The image to show, where the rubric shows one, and the unscored verdict of an item that cannot be judged."""
        if obstacle := self.question.obstacle(item):
            return None, obstacle
        if not self.rubric.sees_image or item.image is None:
            return None, None
        try:
            return fitted(load_image(item.image(), item.id), self.rubric.image_side), None
        except DataError as error:
            return None, unscored(self.kind, f"the image cannot be loaded: {error}")
        except Exception as error:  # whatever the loader raises concerns this item alone
            return None, unscored(self.kind, f"the image cannot be loaded: {type(error).__name__}")
