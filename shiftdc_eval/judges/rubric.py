"""A rubric: what an LLM judge is asked, as data (`rubrics/*.yaml`).

Under its own name a benchmark's prompt is sent verbatim, with the response standing in it as it is. A
guarded prompt asks the same question with every judged text set apart (see `delimit`), because a response
may address the judge.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import yaml
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, PrivateAttr, model_validator

from shiftdc_eval.core.api.chat_model import Message
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.hashing import digest
from shiftdc_eval.core.images import data_url
from shiftdc_eval.judges.delimit import (
    ask_for_verdict,
    enclose,
    guard_system,
    new_nonce,
    visible,
    without_control_tokens,
)
from shiftdc_eval.judges.user_file import is_path, read_user_file
from shiftdc_eval.judges.verdict import VALUES, Item, Kind

FOLDER = Path(__file__).parent / "rubrics"
IMAGES = Path(__file__).parent / "local" / "images"
"""Rubrics of guard models that judge the image alone, which no other judge can be asked by."""
PLACES = ("request", "response", "reference", "context")
_PLACE = re.compile(rf"\{{({'|'.join(PLACES)})\}}")
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
RENDER_VERSION = 4
"""Raised by hand whenever rendering or parsing changes; part of every fingerprint."""


ParserName = Literal[
    "exact_label",
    "stripped_label",
    "labelled",
    "first_line",
    "score",
    "leading_number",
    "mossbench",
    "strongreject",
    "siuo_safe",
    "siuo_effective",
    "vlsbench",
    "mssbench",
]
"""The parsers of `parsing.PARSERS`."""


class Template(BaseModel):
    """One prompt of a rubric."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenarios: tuple[str, ...] = ()
    """Prefixes of the scenarios it is for; empty: every other scenario."""
    text: str
    """The prompt, with `{request}`, `{response}`, `{reference}`, `{context}`."""
    contextual: str = ""
    """The prompt for items that have a context; empty: `text`."""


class Reading(BaseModel):
    """Another verdict in the same reply, e.g. whether an answer judged safe is a refusal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["refusal", "harm"]
    """What is judged."""
    labels: dict[str, str]
    """Word of the reply -> verdict."""


_UNHASHED = {"source", "notes", "readings", "benchmark_only"}
"""Fields that change no verdict of the rubric itself."""
_LATER = ("image_first", "reply_schema", "response_after", "strip")
"""Fields that came later: where they are empty the hash is as before."""


class Rubric(BaseModel):
    """What an LLM judge is asked and how its reply is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Name of the file."""
    version: int = 1
    """Raised when the wording changes."""
    kind: Kind
    """What is judged."""
    source: str = ""
    """Paper, repository and commit."""
    notes: str = ""
    """What a reader of its verdicts should know."""
    system: str = ""
    """System message; empty: none."""
    templates: tuple[Template, ...]
    """Prompts by scenario."""
    known_scenarios: tuple[str, ...] = ()
    """Prefixes of the benchmark's scenarios: another name is an error; empty: any scenario."""
    benchmark_only: bool = False
    """True where it judges its own benchmark alone: other tasks of a run leave it out."""
    about: Literal["response", "image"] = "response"
    """What is judged; a rubric about the image shows the judge no response."""
    needs: tuple[Literal["request", "reference", "context", "image"], ...] = ()
    """What an item must have besides its response; a judge is shown the image that it needs."""
    shows_image: bool = False
    """True: the judge is shown the image of an item that has one, also where it needs none."""
    image_side: PositiveInt = 2048
    """Pixels of the longer side that a shown image may have; a larger one is scaled down."""
    image_first: bool = False
    """True: the image stands before the text."""
    strip: bool = False
    """True: white space around the judged texts is taken off."""
    response_after: str = ""
    """Mark in the response up to which it is not shown; empty: all of it is."""
    parser: ParserName
    """How a reply is read."""
    guarded_parser: ParserName | Literal[""] = ""
    """The parser of the guarded prompt; empty: `parser`."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Word of the reply -> verdict."""
    synonyms: dict[str, str] = Field(default_factory=dict)
    """Further words that a tolerant parser accepts."""
    readings: dict[str, Reading] = Field(default_factory=dict)
    """Further verdicts in the same reply; each is a column of its own, `JUDGE_NAME`."""
    reply_schema: dict[str, Any] | None = None
    """JSON schema of the reply that a server is asked to keep to; None: free text."""
    minimum: float = 0.0
    """Lowest score."""
    maximum: float = 1.0
    """Highest score."""
    max_tokens: PositiveInt | None
    """Most completion tokens; None: no limit is sent."""
    cut_reply_counts: bool = False
    """True where the protocol cuts the reply on purpose, so that a reply cut at `max_tokens` is read."""
    cut_prompt_counts: bool = False
    """True where the protocol cuts long prompts on the left, so that a cut one is judged all the same."""
    guard: bool = False
    """True for rubrics of ours, which are guarded always."""
    conversation: bool = False
    """True where request and response are sent as a chat, because the model's own template asks."""
    reference_spacing: tuple[str, ...] = ()
    """Marks in the reference that the protocol surrounds with spaces."""
    retry_suffix: str = ""
    """Appended to the prompt when the reply could not be read."""
    retries: NonNegativeInt = 0
    """How often the judge is asked again when the reply could not be read; temperature +0.5 each."""
    _file_sha256: str = PrivateAttr("")
    """Hash of the user's own file it was read from; empty for ours."""

    @model_validator(mode="after")
    def _can_judge(self) -> Rubric:
        for template in self.templates:
            for name in _PLACEHOLDER.findall(template.text + template.contextual):
                if name not in PLACES:
                    known = ", ".join(f"{{{place}}}" for place in PLACES)
                    raise ValueError(f"templates: unknown placeholder {{{name}}}; known: {known}")
        if _PLACE.search(self.system):
            raise ValueError("system: placeholders are filled in in templates alone")
        texts = [
            text
            for template in self.templates
            for text in (template.text, template.contextual or "{response}")
        ]
        if self.about == "response" and not all("{response}" in text for text in texts):
            raise ValueError("templates: every text needs {response}, the place of the judged response")
        if [template.scenarios for template in self.templates].count(()) != 1:
            raise ValueError("templates: one, and only one, must be without scenarios: for all others")
        if self.kind == "score":
            if self.minimum >= self.maximum:
                raise ValueError("minimum: must be below maximum")
        elif set(self.labels.values()) != set(VALUES[self.kind]):
            wanted = " and ".join(VALUES[self.kind])
            raise ValueError(f"labels: the words of the reply must stand for {wanted} ({self.kind})")
        for name, reading in self.readings.items():
            if set(reading.labels) != set(self.labels) or not set(reading.labels.values()) <= set(
                VALUES[reading.kind]
            ):
                raise ValueError(
                    f"readings.{name}: each label of the rubric must stand for a {reading.kind} verdict"
                )
        return self

    def fingerprint_data(self) -> dict[str, Any]:
        """Everything of the rubric that can change a verdict; of a user's own file, its hash."""
        if self._file_sha256:
            changed = {"parser": self.parser, "max_tokens": self.max_tokens}
            return {"render": RENDER_VERSION, "file": self._file_sha256, **changed}
        unset = {name for name in _LATER if not getattr(self, name)}
        return {"render": RENDER_VERSION, **self.model_dump(mode="json", exclude=_UNHASHED | unset)}

    @property
    def sha256(self) -> str:
        """Hash of everything of the rubric that can change a verdict; of a user's own file, its sha256."""
        return self._file_sha256 or digest(self.fingerprint_data())

    def missing(self, item: Item) -> str:
        """Which needed part the item lacks; empty when none."""
        for need in self.needs:
            if not getattr(item, need):
                return need
        return ""

    @property
    def sees_image(self) -> bool:
        """Whether its judge is shown an item's image."""
        return self.shows_image or "image" in self.needs

    def template(self, scenario: str, context: str = "", *, guarded: bool = False) -> str:
        """The prompt for a scenario, and for items with or without a context.

        Args:
            guarded: other benchmarks may be asked about in the prompt for all others, as the prompt is not the
                benchmark's own any more; a number that the benchmark does not have is an error all the same.

        Raises:
            ConfigError: the benchmark has no such scenario.
        """
        own = not guarded or scenario[:1].isdigit()
        if self.known_scenarios and scenario and own and not scenario.startswith(self.known_scenarios):
            raise ConfigError(
                f"rubric {self.name}: {scenario!r} is no scenario of its benchmark, whose names begin with "
                f"{', '.join(self.known_scenarios)}; another prompt would be a guess, so choose another judge"
            )
        named = (one for one in self.templates if one.scenarios and scenario.startswith(one.scenarios))
        found = next(named, None) or next(one for one in self.templates if not one.scenarios)
        return (context and found.contextual) or found.text

    def shown(self, item: Item, guarded: bool) -> dict[str, str]:
        """The judged texts as they stand in the prompt, by `request`, `response` and `reference`."""
        reference = item.reference or ""
        for mark in self.reference_spacing:
            reference = reference.replace(mark, f" {mark} ")
        parts = {
            "request": item.request,
            "response": item.response or "",
            "reference": reference,
            "context": item.context,
        }
        if self.response_after:
            parts["response"] = parts["response"].rpartition(self.response_after)[2]
        if self.strip:
            parts = {what: text.strip() for what, text in parts.items()}
        if self.conversation:
            # They are turns of a chat: a control token in one would end it.
            return {what: without_control_tokens(text) for what, text in parts.items()}
        return {what: visible(text) for what, text in parts.items()} if guarded else parts

    def messages(
        self, item: Item, guarded: bool, nonce: str = "", image: Image.Image | None = None
    ) -> list[Message]:
        """The chat that asks the judge about one item.

        Args:
            nonce: code of the markers of a guarded prompt; drawn anew when empty.
            image: shown as a data URL.
        """
        parts = self.shown(item, guarded)
        if self.conversation:
            return [
                {"role": "user", "content": parts["request"]},
                {"role": "assistant", "content": parts["response"]},
            ]
        system = self.system
        text = self.template(item.scenario, item.context, guarded=guarded)
        if guarded:
            nonce = nonce or new_nonce(parts.values())
            parts = {what: enclose(what, value, nonce) for what, value in parts.items()}
            system = "\n\n".join(filter(None, [guard_system(nonce), system]))
            text += ask_for_verdict(
                self.guarded_parser or self.parser, list(self.labels), self.minimum, self.maximum
            )
        # One pass, so that a response holding `{request}` is not expanded again.
        text = _PLACE.sub(lambda found: parts[found[1]], text)
        content: str | list[dict[str, Any]] = text
        if image is not None:
            content = [
                {"type": "text", "text": text},
                {"type": "image_url", "image_url": {"url": data_url(image)}},
            ]
            if self.image_first:
                content.reverse()
        user: Message = {"role": "user", "content": content}
        return [{"role": "system", "content": system}, user] if system else [user]


def fitted(image: Image.Image, side: int) -> Image.Image:
    """The image in RGB, scaled down where its longer side has more than `side` pixels."""
    image = image.convert("RGB")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def load_rubric(name: str, folder: Path = FOLDER) -> Rubric:
    """The rubric `rubrics/<name>.yaml`, or a user's own by the path of its file.

    Args:
        folder: where those of ours are.

    Raises:
        ConfigError: there is no such rubric, or the file is none; names file and field.
    """
    if is_path(name):
        file = read_user_file(name)
        if "name" in file.data:
            raise ConfigError(f"{file.path}: name: not a field; the file's name is the rubric's")
        rubric = file.validated(Rubric, name=file.stem)
        rubric._file_sha256 = file.sha256
        return rubric
    path = folder / f"{name}.yaml"
    if not path.is_file() or name == "guard":
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml") if file.stem != "guard"))
        raise ConfigError(f"no rubric {name!r}; there are: {known}; a file of your own is named by its path")
    return Rubric.model_validate({"name": name, **yaml.safe_load(path.read_text(encoding="utf-8"))})
