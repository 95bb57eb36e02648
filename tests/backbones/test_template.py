"""A chat template that drops what it is given, or prints it as Python does, is refused before anything is asked."""

from pathlib import Path
from typing import Any

import pytest
from tiny_models import LLAVA_TEMPLATE, save_tiny_llava

from shiftdc_eval.backbones import Chat, ModelSpec, load_backbone
from shiftdc_eval.core.errors import ModelError
from shiftdc_eval.defenses.defended_model import load
from shiftdc_eval.plugin.adapter import ShiftDCVlm

USERS = "{% for m in messages if m['role'] == 'user' %}"
PLAIN = "USER: {{ m['content'] }} {% endfor %}ASSISTANT:"
PARTS = "{% for c in m['content'] %}{{ c['text'] if c['type'] == 'text' else '<image>' }}{% endfor %}{% endfor %}ASSISTANT:"
TEXTS = "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}{% endfor %}ASSISTANT:"
ONE_PART = (
    "{{ m['content'][0]['text'] if m['content'][0]['type'] == 'text' else '<image>' }}{% endfor %}ASSISTANT:"
)
LIST_WITHOUT_IMAGE = "{% if m['content'] | length == 1 %}{{ m['content'] }}{% else %}" + PARTS.replace(
    "{% endfor %}{% endfor %}", "{% endfor %}{% endif %}{% endfor %}"
)
SYSTEM_AS_LIST = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}{% else %}"
    + PARTS.replace("{% endfor %}{% endfor %}", "{% endfor %}{% endif %}{% endfor %}")
)
SYSTEM_WITHOUT_IMAGE = (
    "{% for m in messages if m['role'] == 'user' or messages[-1]['content'] | length == 1 %}" + PARTS
)
REFUSES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + USERS
    + PARTS
)


def folder(path: Path, template: str) -> str:
    save_tiny_llava(path, layers=2)
    (path / "chat_template.jinja").write_text(template)
    return str(path)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (USERS + PLAIN, "prints the request as a list of parts"),
        (USERS + "{{ m['content'] | tojson }}{% endfor %}", "prints the request as a list of parts"),
        (USERS + TEXTS, "leaves out images"),
        ("{% for m in messages %}<image>{% endfor %}", "leaves out or changes the request"),
        (USERS + ONE_PART, "leaves out or changes the request where there is an image"),
        (USERS + LIST_WITHOUT_IMAGE, "prints the request as a list of parts"),
        (USERS + TEXTS.replace("c['text'] }}", "c['text'] | e }}"), "leaves out or changes the request"),
        ("{{ raise_exception('only text') }}", "cannot render the request: only text"),
    ],
)
def test_a_request_that_is_not_rendered_ends_loading(template: str, said: str, tmp_path: Path) -> None:
    name = folder(tmp_path / "model", template)
    with pytest.raises(ModelError, match=f"{name}: its chat template {said}") as raised:
        load_backbone(ModelSpec(name, device="cpu"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (USERS + PARTS, "leaves out or changes the system prompt"),
        (SYSTEM_WITHOUT_IMAGE, "leaves out or changes the system prompt where there is an image"),
        (SYSTEM_AS_LIST, "prints the system prompt as a list of parts"),
        (REFUSES_SYSTEM, "cannot render the system prompt: no system role"),
    ],
)
def test_a_system_prompt_is_refused_where_it_is_not_rendered(
    template: str, said: str, tmp_path: Path
) -> None:
    name = folder(tmp_path / "model", template)
    given: dict[str, Any] = {"pretrained": name, "device": "cpu", "defense": "none"}
    ShiftDCVlm(**given)
    with pytest.raises(ModelError, match=f"its chat template {said}.*; leave the system prompt out"):
        ShiftDCVlm(**given, system_prompt="Answer in one word.")
    model = load(name, device="cpu")
    model.answer([Chat.ask("a")], max_new_tokens=1)
    with pytest.raises(ModelError, match=f"its chat template {said}"):
        model.answer([Chat.ask("a", system="Answer in one word.")], max_new_tokens=1)


def test_a_system_prompt_that_is_rendered_is_used(tmp_path: Path) -> None:
    name = folder(tmp_path / "model", LLAVA_TEMPLATE)
    model = load(name, device="cpu")
    (answer,) = model.answer([Chat.ask("a", system="Answer in one word.")], max_new_tokens=1)
    (without,) = model.answer([Chat.ask("a")], max_new_tokens=1)
    assert answer.tokens_in > without.tokens_in
