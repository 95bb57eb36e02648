"""From a spec's settings to an LLM judge."""

from __future__ import annotations

import os
from typing import cast

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.judges import settings as read
from shiftdc_eval.judges.api.budget import PRICES_VARIABLE, price_of
from shiftdc_eval.judges.api.endpoint import OPENAI_URL, Endpoint
from shiftdc_eval.judges.api.grader import Structured
from shiftdc_eval.judges.llm import LLMJudge
from shiftdc_eval.judges.rubric import load_rubric

MODEL_VARIABLE = "SHIFTDC_JUDGE_MODEL"
URL_VARIABLES = ("SHIFTDC_JUDGE_BASE_URL", "OPENAI_BASE_URL")


def llm_judge(
    name: str, rubric_name: str, settings: dict[str, str], *, guarded: bool = False, parser: str = ""
) -> LLMJudge:
    """The judge of one rubric.

    Settings: `model`, `base_url` (both also from the environment), `concurrency`, `timeout`, `tries`,
    `patience`, `backoff` (seconds), `temperature` (`none` to send none), `max_tokens`, `structured`
    (auto, on, off), `runs` (scores only), `budget` (USD), `as`.

    Args:
        guarded: set judged texts apart (always so for rubrics of ours).
        parser: reads the replies in place of the rubric's own.

    Raises:
        ConfigError: no model is named, a setting does not fit, or a budget meets an unknown price.
    """
    import openai  # noqa: F401  (half a second, better spent here than within the first judgement)

    rubric = load_rubric(rubric_name)
    changes: dict[str, object] = {"parser": parser} if parser else {}
    changes["max_tokens"] = read.whole(settings, "max_tokens", max(rubric.max_tokens, 256 if guarded else 1))
    rubric = rubric.model_copy(update=changes)
    model = read.text(settings, "model") or os.environ.get(MODEL_VARIABLE, "")
    if not model:
        raise ConfigError(
            f"judge {name}: no judge model; add `model=...` to its spec or set {MODEL_VARIABLE}"
        )
    from_environment = next(
        filter(None, (os.environ.get(variable) for variable in URL_VARIABLES)), OPENAI_URL
    )
    defaults = Endpoint(model=model, base_url=OPENAI_URL)
    endpoint = Endpoint(
        model=model,
        base_url=(read.text(settings, "base_url") or from_environment).rstrip("/"),
        concurrency=read.whole(settings, "concurrency", defaults.concurrency),
        timeout=read.number(settings, "timeout", defaults.timeout, 0.01),
        tries=read.whole(settings, "tries", defaults.tries),
        patience=read.number(settings, "patience", defaults.patience, 0),
        backoff=read.number(settings, "backoff", defaults.backoff, 0.001),
    )
    temperature: float | None = None
    if settings.get("temperature") == "none":
        del settings["temperature"]
    else:
        temperature = read.number(settings, "temperature", 0.0, 0.0)
    runs = read.whole(settings, "runs", 1)
    if runs > 1 and rubric.kind != "score":
        raise ConfigError(
            f"judge {name}: runs={runs} is for scores; this rubric gives a {rubric.kind} verdict"
        )
    price = price_of(endpoint.host, model)
    budget = read.number(settings, "budget", 0.0, 0.0) or None
    if budget and price is None:
        raise ConfigError(
            f"judge {name}: a budget needs the price of {model} at {endpoint.host}, which is unknown; "
            f"name a price table with {PRICES_VARIABLE}"
        )
    return LLMJudge(
        name=read.text(settings, "as") or name,
        rubric=rubric,
        endpoint=endpoint,
        guarded=(guarded or rubric.guard) and not rubric.conversation,
        structured=cast(Structured, read.choice(settings, "structured", "auto", ("auto", "on", "off"))),
        temperature=temperature,
        runs=runs,
        price=price,
        budget=budget,
    )
