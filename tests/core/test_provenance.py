import pytest

from shiftdc_eval.core.provenance import command_line, redact

CANARY = "canary4711canary"


@pytest.mark.parametrize(
    "text",
    [
        f"HF_TOKEN={CANARY}",
        f"Token: {CANARY} rest",
        f"--model_args api_key={CANARY},x=1",
        f"{{'hf_token': {CANARY}}}",
        f"password = {CANARY}",
        f"using hf_{CANARY} now",
        f"sk-{CANARY}",
        f"sk-proj-{CANARY}_x",
        f"--judge 'llm_figstep:base_url=https://me:{CANARY}@host:8000/v1'",
        f"cannot reach http://{CANARY}@host/v1",
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str) -> None:
    assert CANARY not in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "1230 answer tokens, 50 captions",
        "gen_kwargs: (max_new_tokens=32)",
        "pretrained=org/tokenizer,seed=1",
        "http://h/v1/@x a@b",
    ],
)
def test_ordinary_words_are_left_alone(text: str) -> None:
    assert redact(text) == text


def test_the_command_line_names_the_program_without_its_folder() -> None:
    assert command_line(["/home/me/bin/lmms-eval", "--tasks", "a b"]) == "lmms-eval --tasks 'a b'"
    assert CANARY not in command_line(["x", f"--model_args=token={CANARY}"])


def test_the_value_of_a_secret_variable_is_hidden_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", CANARY)
    assert CANARY not in redact(f"Error calling http://host/{CANARY}/v1")
