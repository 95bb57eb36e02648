"""Building judges that ask a model from the settings of a spec.

Each setting is validated by the dataclass that holds it. An error names the setting and never its value, which might
be a key in the wrong place.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, FiniteFloat, PositiveInt, TypeAdapter, ValidationError

from shiftdc_eval.core.api.client import ApiModel
from shiftdc_eval.core.api.endpoint import OPENAI_URL, Endpoint
from shiftdc_eval.core.api.prices import PRICES_VARIABLE, price_of
from shiftdc_eval.core.environment import foreign, setting
from shiftdc_eval.core.errors import ConfigError, JudgeError
from shiftdc_eval.core.validation import nearest
from shiftdc_eval.judges.llm import LLMJudge
from shiftdc_eval.judges.local.classifier import LocalClassifier
from shiftdc_eval.judges.local.generative import LocalJudge
from shiftdc_eval.judges.local.guard import GuardJudge, LlavaGuard, ShieldGemma
from shiftdc_eval.judges.local.model import LocalModel
from shiftdc_eval.judges.question import Question, Structured
from shiftdc_eval.judges.rubric import FOLDER, IMAGES, load_rubric

MODEL_VARIABLE = "SHIFTDC_JUDGE_MODEL"
URL_VARIABLE, OPENAI_URL_VARIABLE = "SHIFTDC_JUDGE_BASE_URL", "OPENAI_BASE_URL"
GUARDED_TOKENS = 256
"""Fewest reply tokens of a guarded prompt, whose verdict is on the last line of the reply."""

S = TypeVar("S")
NotNegative = Annotated[FiniteFloat, Field(ge=0)]


@dataclass(frozen=True)
class LLMSettings:
    """Settings of a judge behind an endpoint, besides those of the endpoint."""

    temperature: Annotated[NotNegative | None, BeforeValidator(lambda v: None if v == "none" else v)] = 0.0
    max_tokens: PositiveInt | Literal["none"] | None = None
    structured: Structured = "auto"
    runs: PositiveInt = 1
    give_up: PositiveInt = 5
    budget: NotNegative = 0.0


@dataclass(frozen=True)
class Shown:
    """Setting of a sequence classifier."""

    show: Literal["pair", "response"] = "pair"


@dataclass(frozen=True)
class Harm:
    """Settings of a safety classifier."""

    unsafe: str = ""
    threshold: NotNegative = 0.5


def taken(settings: dict[str, str], record: type[S], **more: str) -> S:
    """Build a dataclass from the settings it has fields for, and remove them from the dict.

    Raises:
        ConfigError: one does not fit.
    """
    names = [one.name for one in fields(record) if one.name not in more]  # type: ignore[arg-type]
    known = {name: settings.pop(name) for name in names if name in settings}
    try:
        return TypeAdapter(record).validate_python({**known, **more})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ConfigError(f"judge setting {str(first['loc'][0])!r}: {first['msg']}") from None


def llm_judge(
    name: str, rubric_name: str, settings: dict[str, str], *, guarded: bool = False, parser: str = ""
) -> LLMJudge:
    """The judge of one rubric at an endpoint; model and address may also come from the environment.

    Args:
        name: of the judge, unless the setting `as` says otherwise.
        rubric_name: one of ours, or the path of a file.
        settings: `model`, `base_url`, those of `Endpoint` and of `LLMSettings`, and `as`.
        guarded: set judged texts apart (always so for rubrics of ours).
        parser: reads the replies in place of the rubric's own.

    Raises:
        ConfigError: no model is named, a setting does not fit, or a budget meets an unknown price.
    """
    rubric = load_rubric(rubric_name)
    given = taken(settings, LLMSettings)
    changes: dict[str, object] = {"parser": parser} if parser else {}
    changes["max_tokens"] = given.max_tokens or max(rubric.max_tokens or 0, GUARDED_TOKENS if guarded else 1)
    if given.max_tokens == "none":
        changes["max_tokens"] = None
    rubric = rubric.model_copy(update=changes)
    model = settings.pop("model", "") or setting(MODEL_VARIABLE)
    known = [
        "model",
        "base_url",
        "as",
        *(one.name for kind in (LLMSettings, Endpoint) for one in fields(kind)),
    ]
    for unknown in settings.keys() - set(known):
        raise ConfigError(f"judge {name}: unknown setting {unknown!r}{nearest(unknown, known)}")
    if not model:
        raise ConfigError(
            f"judge {name}: no judge model; add `model=...` to its spec or set {MODEL_VARIABLE}"
        )
    address = (
        settings.pop("base_url", "") or setting(URL_VARIABLE) or foreign(OPENAI_URL_VARIABLE) or OPENAI_URL
    )
    address = address.rstrip("/")
    endpoint = taken(settings, Endpoint, model=model, base_url=address)
    if given.runs > 1 and rubric.kind != "score":
        raise ConfigError(
            f"judge {name}: runs={given.runs} is for scores; this rubric gives a {rubric.kind} verdict"
        )
    if given.budget and given.max_tokens == "none":
        raise ConfigError(
            f"judge {name}: a budget needs a limit of the reply's tokens; give max_tokens a number"
        )
    price = price_of(endpoint.host, model)
    if given.budget and price is None:
        raise ConfigError(
            f"judge {name}: a budget needs the price of {model} at {endpoint.host}, which is unknown; "
            f"name a price table with {PRICES_VARIABLE}"
        )
    return LLMJudge(
        name=settings.pop("as", name),
        question=Question(rubric, (guarded or rubric.guard) and not rubric.conversation),
        model=ApiModel(endpoint, price, given.budget or None),
        structured=given.structured,
        temperature=given.temperature,
        runs=given.runs,
        give_up=given.give_up,
        price=price,
    )


def own_llm_judge(rubric: str, settings: dict[str, str]) -> LLMJudge:
    """The judge of a rubric that the user names, by its path or as one of ours."""
    return llm_judge(f"llm_{load_rubric(rubric).name}", rubric, settings)


def local_judge(rubric_name: str, model: str, settings: dict[str, str]) -> LocalJudge:
    """A rubric put to a local causal language model.

    Settings: `model`, those of `LocalModel`, `as`, and for `local_rubric` the `rubric` (one of ours or the path of a
    file), whose prompt is then guarded and sent through the chat template.

    Raises:
        ConfigError: no rubric is named, or it needs the image.
        JudgeError: no model is named.
    """
    free_choice = not rubric_name
    if free_choice and not (rubric_name := settings.pop("rubric", "")):
        raise ConfigError("judge local_rubric needs a rubric; add `rubric=NAME` to its spec, e.g. figstep")
    rubric = load_rubric(rubric_name)
    if rubric.sees_image:
        raise ConfigError(f"rubric {rubric_name} shows the image; this local judge reads text only")
    if free_choice:
        rubric = rubric.model_copy(update={"max_tokens": max(rubric.max_tokens or 0, GUARDED_TOKENS)})
    guarded = free_choice and not rubric.conversation
    return LocalJudge(
        name=settings.pop("as", f"local_{rubric.name}"),
        question=Question(rubric, guarded),
        model=_local_model(settings, model),
        chat=guarded,
    )


def guard_judge(rubric_name: str, model: str, settings: dict[str, str]) -> GuardJudge:
    """A guard model that sees images; settings: `model`, those of `LocalModel`, and `as`."""
    folder = IMAGES if (IMAGES / f"{rubric_name}.yaml").is_file() else FOLDER
    made = {"shieldgemma_2": ShieldGemma, "llavaguard": LlavaGuard}.get(rubric_name, GuardJudge)
    return made(
        name=settings.pop("as", f"local_{rubric_name}"),
        question=Question(load_rubric(rubric_name, folder)),
        model=_local_model(settings, model),
    )


def reward_judge(settings: dict[str, str]) -> LocalClassifier:
    """A reward model; `show` says what it is shown.

    Raises:
        ConfigError: a setting does not fit.
        JudgeError: no model is named.
    """
    shown = taken(settings, Shown).show == "pair"
    return LocalClassifier(settings.pop("as", "local_reward"), _local_model(settings), show_request=shown)


def classifier_judge(settings: dict[str, str]) -> LocalClassifier:
    """A sequence classifier; `unsafe` names its unsafe labels (joined by `+`), `show` what it is shown.

    Raises:
        ConfigError: a setting does not fit, or no unsafe label is named.
        JudgeError: no model is named.
    """
    harm = taken(settings, Harm)
    unsafe = tuple(filter(None, harm.unsafe.split("+")))
    if not unsafe:
        raise ConfigError("judge local_classifier needs `unsafe=LABEL`, the model's label for unsafe texts")
    return LocalClassifier(
        name=settings.pop("as", "local_classifier"),
        model=_local_model(settings),
        unsafe=unsafe,
        threshold=harm.threshold,
        show_request=taken(settings, Shown).show == "pair",
    )


def _local_model(settings: dict[str, str], default: str = "") -> LocalModel:
    if not (name := settings.pop("model", "") or default):
        raise JudgeError("this local judge needs a model; add `model=FOLDER or hub id` to its spec")
    return taken(settings, LocalModel, id=name)
