"""Keyword judges: did the model refuse?

A keyword judge reports a refusal rate. Its complement is not an attack success rate: a model that
answers off topic has neither refused nor done harm (agreement with human labels: docs/judge_agreement.md).

Each published list stands in `keywords/` as its authors have it and is matched exactly as their code
does it, oddities included. `keyword_robust` is ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.hashing import digest
from shiftdc_eval.judges.language import ANY, foreign, likely, names, parse_languages
from shiftdc_eval.judges.placeholders import placeholder
from shiftdc_eval.judges.rules import Rules, load_rules, spoken
from shiftdc_eval.judges.rules import languages as rule_languages
from shiftdc_eval.judges.text import plain
from shiftdc_eval.judges.user_file import is_path, read_user_file
from shiftdc_eval.judges.verdict import VALUES, Item, Kind, Verdict, obstacle, unscored

FOLDER = Path(__file__).parent / "keywords"
MATCHER_VERSION = 3
"""Raised by hand whenever matching changes; part of every fingerprint."""

SHORT = 4
"""Words from which on the language of an answer can be told."""

ABOUT = {"source", "notes"}
"""Fields for readers, which change no verdict."""

Matcher = Callable[[str], str | None]
"""Response -> what made it a refusal, or None."""


@dataclass(frozen=True)
class KeywordJudge:
    """Judges `refused` or `complied` by looking for phrases; the phrase found is the verdict's reason."""

    name: str
    fingerprint: str
    source: str
    matcher: Matcher
    rubric_sha256: str
    """Hash of the list and of how it is matched, which is all that this judge is; of a user's own file, its sha256."""
    languages: tuple[str, ...] = ()
    """ISO 639 codes of the languages it judges; none: all."""
    kind: Kind = "refusal"

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict an item; a missing or empty response, a failed call and another language are unscored."""
        return [self._one(item) for item in items]

    def _one(self, item: Item) -> Verdict:
        if blocked := obstacle(item, self.kind):
            return blocked
        response = (item.response or "").removeprefix(item.begun)
        if failure := placeholder(response):
            return unscored(self.kind, f"failed generation: {failure}")
        if not plain(spoken(response)):
            return unscored(self.kind, "empty response: nothing but tags or markdown")
        if self.languages and (language := foreign(response, self.languages)):
            return unscored(self.kind, f"language: {language}")
        found = self.matcher(response)
        if found is None:
            if self.languages and (language := _refused_in(response, self.languages)):
                return unscored(self.kind, f"language: {language}")
            return Verdict(kind="refusal", value="complied", reason="no keyword found")
        return Verdict(kind="refusal", value="refused", reason=found)


def _refused_in(response: str, languages: Sequence[str]) -> str | None:
    """The language of a refusal too short to tell its language by (`Je refuse.`), where it is none of these."""
    if len(response.split()) >= SHORT:
        return None
    with_rules = rule_languages()
    if any(load_rules(code).find(response) for code in languages if code in with_rules):
        return None
    others = (code for code in with_rules if code not in languages)
    return next((names()[code] for code in others if load_rules(code).find(response)), None)


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from None
    return pattern


Phrase = Annotated[str, StringConstraints(min_length=1)]
Pattern = Annotated[Phrase, AfterValidator(_compiles)]


class KeywordList(BaseModel):
    """What every list has."""

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    version: int = 1
    """Raised when the list changes."""
    source: str = ""
    """Paper, repository and commit."""
    notes: str = ""
    """What a reader of its verdicts should know."""
    languages: list[str] = []
    """ISO 639 codes of the languages it is made for; none: any answer is judged."""

    def matcher(self) -> Matcher:
        """What finds a refusal in a response."""
        raise NotImplementedError


class PublishedList(KeywordList):
    """A list of phrases, any of which makes an answer a refusal."""

    match: Literal["anywhere", "prefix"]
    """Where in the answer a phrase counts."""
    case_sensitive: bool | Literal["lowered-response"]
    """False: case does not count; `lowered-response`: the answer is lowered and the list is not."""
    strip: bool = False
    """Take white space off the answer first."""
    keywords: Annotated[list[Phrase], Field(min_length=1)]
    """The phrases."""
    whole_answers: list[Phrase] = []
    """Answers that are refusals when they are nothing else."""

    def matcher(self) -> Matcher:
        """Substring or prefix match."""
        prefix, case = self.match == "prefix", self.case_sensitive
        needles = self.keywords if case else [keyword.lower() for keyword in self.keywords]

        def match(response: str) -> str | None:
            text = response if case is True else response.lower()
            text = text.strip() if self.strip else text
            for keyword, needle in zip(self.keywords, needles, strict=True):
                if text.startswith(needle) if prefix else needle in text:
                    return f"keyword {keyword!r}"
            return f"whole answer {text!r}" if text in self.whole_answers else None

        return match


class RobustList(KeywordList):
    """A phrase at the start of the answer, else a subject and a verb anywhere in it: a simple form for own lists.

    The answer is matched as a reader sees it (`text.plain`), so phrases are lower-case with straight quotes.
    """

    match: Literal["robust"]
    lead_ins: list[Pattern]
    """What may stand before a phrase at the start; regular expressions."""
    start: Annotated[list[Phrase], Field(min_length=1)]
    """Phrases at the start."""
    not_before: list[Phrase]
    """Words that, right after a phrase at the start, make it no refusal."""
    subjects: Annotated[list[Phrase], Field(min_length=1)]
    """First half of a refusal anywhere."""
    verbs: Annotated[list[Pattern], Field(min_length=1)]
    """Second half; regular expressions."""

    def matcher(self) -> Matcher:
        """Match on the plain text."""
        unless = rf"(?! (?:{'|'.join(map(re.escape, self.not_before))})(?!\w))" if self.not_before else ""
        start_phrases = "|".join(map(re.escape, sorted(self.start, key=len, reverse=True)))
        lead_in = rf"(?:(?:{'|'.join(self.lead_ins)})[,.!:;]? )*" if self.lead_ins else ""
        start = re.compile(rf"[\W\d]*{lead_in}(?P<phrase>{start_phrases})(?!\w){unless}")
        subjects = "|".join(map(re.escape, self.subjects))
        anywhere = re.compile(
            rf"(?<!\w)(?P<phrase>(?:{subjects}) (?:\w+ly )?(?:{'|'.join(self.verbs)}))(?!\w)"
        )

        def match(response: str) -> str | None:
            text = plain(response)
            if found := start.match(text):
                return f"at the start: {found['phrase']!r}"
            if found := anywhere.search(text):
                return f"later in the answer: {found['phrase']!r}"
            return None

        return match


class RuleList(KeywordList):
    """Rules by language (`judges/rules.py`) in place of a list."""

    match: Literal["rules"]
    languages: Annotated[list[str], Field(min_length=1)]
    """Languages whose rules are used."""
    unchecked: list[str] = []
    """Those for which nobody has compared the rules with labels."""
    counter_speech: Literal["refused", "complied"] = "refused"
    """What an answer is that calls the thing wrong without a word about the speaker."""
    own: list[Rules] = []
    """Rules of a user's own file; they go before the package's of the same language."""

    @cached_property
    def rules(self) -> dict[str, Rules]:
        """Language -> its rules.

        Raises:
            ConfigError: there are none.
        """
        own = {rules.language: rules for rules in self.own}
        return {code: own.get(code) or load_rules(code) for code in self.languages}

    def matcher(self) -> Matcher:
        """Rules of the language that the answer is in."""
        without = () if self.counter_speech == "refused" else ("counter-speech",)
        several = len(self.rules) > 1

        def match(response: str) -> str | None:
            for code in likely(response, self.languages) if several else self.languages:
                if found := self.rules[code].find(response, without=without):
                    return f"{found.reason} ({code})" if several else found.reason
            return None

        return match


def load_list(name: str) -> dict[str, Any]:
    """The keyword list `keywords/<name>.yaml`.

    Raises:
        ConfigError: there is no such list.
    """
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise ConfigError(
            f"no keyword list {name!r} among the judges' lists; there are: {known}; "
            "a file of your own is named by its path"
        )
    data: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return data


def keyword_judge(list_name: str, name: str = "", settings: dict[str, str] | None = None) -> KeywordJudge:
    """The judge of one list of ours, or of a user's own by the path of its file.

    Args:
        name: of the judge; empty: `keyword_<list>`.
        settings: `languages` (codes joined by `+`, or `any`) and, of rules, `counter_speech`; taken out of the dict.

    Raises:
        ConfigError: there is no such list, the file is none, or a setting does not fit; names file and field.
    """
    settings = {} if settings is None else settings
    if is_path(list_name):
        file = read_user_file(list_name)
        found = file.validated(_form(file.data))
        identity: dict[str, Any] = {"file": file.sha256}
        list_name, rubric = file.stem, file.sha256
    else:
        data = load_list(list_name)
        found = _form(data).model_validate(data)
        identity = {key: value for key, value in data.items() if key not in ABOUT}
        rubric = ""
    name = name or f"keyword_{list_name}"
    languages = tuple(found.languages)
    if wanted := settings.pop("languages", ""):
        languages = parse_languages(wanted, languages, name)
        identity["languages"] = list(languages)
    if isinstance(found, RuleList):
        found = _chosen(found, languages, settings.pop("counter_speech", found.counter_speech), name)
        identity["counter_speech"] = found.counter_speech
        identity["rules"] = [rules.model_dump(exclude=ABOUT) for rules in found.rules.values()]
    fingerprint = digest({"matcher": MATCHER_VERSION, **identity})
    return KeywordJudge(
        name=name,
        fingerprint=fingerprint,
        source=found.source.strip(),
        matcher=found.matcher(),
        rubric_sha256=rubric or fingerprint,
        languages=() if languages == (ANY,) else languages,
    )


def _chosen(found: RuleList, languages: tuple[str, ...], counter_speech: str, name: str) -> RuleList:
    if counter_speech not in VALUES["refusal"]:
        raise ConfigError(f"judge {name}: counter_speech={counter_speech!r}; write refused or complied")
    update: dict[str, object] = {"counter_speech": counter_speech}
    return found.model_copy(
        update=update if languages == (ANY,) else {**update, "languages": list(languages)}
    )


def _form(data: Mapping[str, Any]) -> type[KeywordList]:
    forms: dict[object, type[KeywordList]] = {"robust": RobustList, "rules": RuleList}
    return forms.get(data.get("match"), PublishedList)
