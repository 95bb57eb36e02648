import json
import shlex
from base64 import b64encode
from html import escape
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from shiftdc_eval.core.provenance import command_line, redact, redacted, secret_in

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
        f"revision=https://me:it's{CANARY}@host/x",
        f"https://me:a@{CANARY}@host/x",
        f"api_key='a {CANARY}'",
        f"GET /v1?key={CANARY}&x=1",
        f"Authorization: Bearer {CANARY}",
        f"cannot reach https://gateway.example/{CANARY}Ab3Cd4/v1/models",
        f"ghp_{CANARY}",
        f"secret_key={CANARY}",
        f"--api-key {CANARY}",
        f"Authorization: Token {CANARY}",
        f'{{\\"api_key\\": \\"{CANARY}\\"}}',
        f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{CANARY}",
        f"-----BEGIN RSA PRIVATE KEY-----\n{CANARY}\n-----END RSA PRIVATE KEY-----",
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
        "https://raw.example/o/r/0861b17b3d670861b17b3d670861b17b3d670861/data/question/safebench_of_many_2024.csv",
        "https://huggingface.co/llava-hf/llava-1.5-7b-hf",
        "hf-internal-testing/tiny, the eos token",
        "a basic token of appreciation, the author's authorization",
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


@pytest.mark.parametrize("secret", ["it's\"a;secret", "two words'", "back\\slash$x", "über/geheim"])
def test_a_secret_is_hidden_however_it_is_quoted(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_PASSWORD", secret)
    forms = [
        secret,
        json.dumps({"prompt": secret}),
        shlex.join(["x", secret]),
        repr([secret]),
        quote(secret, ""),
        quote_plus(secret),
        escape(secret),
        secret.replace('"', '""'),
        json.dumps(json.dumps(secret)),
        json.dumps(secret, ensure_ascii=False),
        b64encode(secret.encode()).decode(),
    ]
    for form in forms:
        said = redact(f"before {form} after")
        assert "***" in said
        assert secret_in(form)
        assert "ecret" not in said.replace("secret=", "")
        assert "words" not in said
        assert "lash" not in said
        assert "geheim" not in said
    assert command_line(["x", f"--model_args=system_prompt={secret}"]).endswith("system_prompt=***'")


@pytest.mark.parametrize("name", ["DB_PASS", "GITHUB_PAT", "SERVICE_AUTH", "PASSPHRASE"])
def test_other_names_of_secrets_are_known_and_each_line_of_one_is_hidden(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, f"first line\n{CANARY}\n")
    assert redact(f"x {CANARY} y") == "x *** y"


def test_texts_anywhere_in_a_value_are_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", CANARY)
    value = {"a": [1, None, f"x{CANARY}"], "b": {"api_key": "word", "max_new_tokens": 3}, "c": (True, 0.5)}
    assert redacted(value) == {
        "a": [1, None, "x***"],
        "b": {"api_key": "***", "max_new_tokens": 3},
        "c": [True, 0.5],
    }
    assert redacted({CANARY: 1, "api_key": ["word"], "token": {"a": "word"}}) == {
        "***": 1,
        "api_key": "***",
        "token": "***",
    }


def test_only_what_must_be_a_secret_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MY_TOKEN", CANARY)
    monkeypatch.setenv("TOKEN_FILE", str(tmp_path))
    assert "MY_TOKEN" in secret_in(f"Be kind. {CANARY}")
    assert "user name" in secret_in("https://me:word@host/x")
    assert "looks like a key" in secret_in("sk-proj-0123456789abcdef")
    for harmless in ("hf_internal-testing/tiny", f"{tmp_path}/out", "Be kind.", "https://host/v1"):
        assert secret_in(harmless) == ""


def test_a_short_secret_is_taken_out_where_it_is_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"k4n4ry": "***", "can4ry7": "***", "danger": "danger", "123456": "123456", "a1b2c": "a1b2c"}
    for secret, shown in said.items():
        monkeypatch.setenv("MY_API_KEY", secret)
        assert redact(f"the value {secret} here") == f"the value {shown} here"
