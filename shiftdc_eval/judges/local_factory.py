"""From a spec's settings to a judge that runs on this machine."""

from __future__ import annotations

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.judges import settings as read
from shiftdc_eval.judges.local.classifier import LocalClassifier
from shiftdc_eval.judges.local.generative import LocalJudge
from shiftdc_eval.judges.local.model import local_model
from shiftdc_eval.judges.rubric import load_rubric


def local_judge(rubric_name: str, model: str, settings: dict[str, str]) -> LocalJudge:
    """A rubric put to a local causal language model.

    Settings: those of the model (`model`, `revision`, `dtype`, `device`, `batch_size`, `max_length`), `as`,
    and for `local_rubric` the `rubric`, whose prompt is then guarded and sent through the chat template.

    Raises:
        ConfigError: no rubric is named, or it needs the image.
        JudgeError: no model is named.
    """
    free_choice = not rubric_name
    if free_choice and not (rubric_name := read.text(settings, "rubric")):
        raise ConfigError("judge local_rubric needs a rubric; add `rubric=NAME` to its spec, e.g. figstep")
    rubric = load_rubric(rubric_name)
    if "image" in rubric.needs:
        raise ConfigError(f"rubric {rubric_name} shows the image; local judges read text only")
    if free_choice:
        rubric = rubric.model_copy(update={"max_tokens": max(rubric.max_tokens, 256)})
    guarded = free_choice and not rubric.conversation
    return LocalJudge(
        name=read.text(settings, "as") or f"local_{rubric_name}",
        rubric=rubric,
        model=local_model(settings, model),
        guarded=guarded,
        chat=guarded,
    )


def classifier_judge(settings: dict[str, str], *, reward: bool) -> LocalClassifier:
    """A sequence classifier; `unsafe` names its unsafe labels (joined by `+`), `show` what it is shown.

    Raises:
        ConfigError: a setting does not fit, or no unsafe label is named.
        JudgeError: no model is named.
    """
    unsafe = () if reward else tuple(filter(None, read.text(settings, "unsafe").split("+")))
    if not reward and not unsafe:
        raise ConfigError("judge local_classifier needs `unsafe=LABEL`, the model's label for unsafe texts")
    name = "local_reward" if reward else "local_classifier"
    return LocalClassifier(
        name=read.text(settings, "as") or name,
        model=local_model(settings),
        unsafe=unsafe,
        threshold=0.5 if reward else read.number(settings, "threshold", 0.5, 0.0),
        show_request=read.choice(settings, "show", "pair", ("pair", "response")) == "pair",
    )
