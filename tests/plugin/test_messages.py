from pathlib import Path

import pytest
from PIL import Image

from shiftdc_eval.core.errors import ConfigError, DataError, ModelError
from shiftdc_eval.plugin.messages import chat_from_messages, settings_from_kwargs


def settings(kwargs: dict[str, object]) -> tuple[object, list[str]]:
    return settings_from_kwargs(kwargs, use_cache=True, where="task t, document 0")


def test_messages_become_a_chat_with_images_loaded(tmp_path: Path) -> None:
    Image.new("L", (3, 2)).save(tmp_path / "grey.png")
    messages = [
        {
            "role": "user",
            "content": [{"type": "image", "url": str(tmp_path / "grey.png")}, {"type": "text", "text": "q"}],
        }
    ]
    chat = chat_from_messages(messages, "be safe", where="task t")
    assert [turn.role for turn in chat.turns] == ["system", "user"]
    assert chat.request == "q"
    assert chat.images[0].mode == "RGB"


def test_a_given_system_prompt_replaces_the_tasks_own() -> None:
    messages = [{"role": "system", "content": "theirs"}, {"role": "user", "content": "q"}]
    assert [turn.text for turn in chat_from_messages(messages, "ours", where="t").turns] == ["ours", "q"]
    assert [turn.text for turn in chat_from_messages(messages, "", where="t").turns] == ["theirs", "q"]


def test_what_cannot_be_shown_is_refused_by_name(tmp_path: Path) -> None:
    video = [{"role": "user", "content": [{"type": "video", "url": "x.mp4"}]}]
    with pytest.raises(ModelError, match="task t, document 3 holds video"):
        chat_from_messages(video, "", where="task t, document 3")
    (tmp_path / "broken.png").write_text("no image")
    broken = [{"role": "user", "content": [{"type": "image", "url": str(tmp_path / "broken.png")}]}]
    with pytest.raises(DataError, match=r"document 3: .*broken\.png: broken image"):
        chat_from_messages(broken, "", where="task t, document 3")


def test_the_stop_string_that_lmms_eval_injects_is_ignored_and_noted() -> None:
    made, notes = settings({"until": ["\n\n"], "max_new_tokens": 7})
    assert made.until == ()  # type: ignore[attr-defined]
    assert made.max_new_tokens == 7  # type: ignore[attr-defined]
    assert "blank line" in notes[0]
    own, notes = settings({"until": ["###"]})
    assert own.until == ("###",)  # type: ignore[attr-defined]
    assert notes == []


def test_sampling_settings_are_honoured_and_greedy_ones_normalised() -> None:
    made, _ = settings({"temperature": 0.7, "top_p": 0.9, "top_k": 5})
    assert (made.do_sample, made.temperature, made.top_p, made.top_k) == (True, 0.7, 0.9, 5)  # type: ignore[attr-defined]
    greedy, _ = settings({"temperature": 0, "do_sample": False, "top_p": None, "num_beams": 1})
    assert greedy == settings({})[0]


def test_unknown_settings_are_noted_and_beams_refused() -> None:
    _, notes = settings({"image_aspect_ratio": "pad"})
    assert "image_aspect_ratio" in notes[0]
    with pytest.raises(ConfigError, match="beam search"):
        settings({"num_beams": 4})


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"do_sample": True, "temperature": 0}, "needs a temperature above 0"),
        ({"temperature": "hot"}, "temperature='hot' is not a number"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 is out of range"),
        ({"max_new_tokens": "many"}, "max_new_tokens='many' is not a number"),
        ({"do_sample": True, "temperature": 1, "top_p": 0}, "top_p=0.0 is out of range"),
    ],
)
def test_generation_settings_that_make_no_sense_name_themselves(kwargs: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(kwargs)
    assert said in str(caught.value)


def test_a_chat_without_a_user_turn_is_refused() -> None:
    with pytest.raises(ModelError, match="no user turn"):
        chat_from_messages([{"role": "system", "content": "x"}], "", where="task t")
