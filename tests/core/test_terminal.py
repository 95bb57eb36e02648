"""What is printed cannot steer a terminal, and nothing that is printed ends a program."""

import subprocess
import sys

import pytest

from shiftdc_eval.core.terminal import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("figstep/1_3", "figstep/1_3"),
        ("\x1b[2J\x1b[31mred", r"\x1b[2J\x1b[31mred"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("a\rb\nc\td", r"a\rb\nc\td"),
        ("nul\0", r"nul\x00"),
        ("safe\u202eexe.\u2066x\u200f", r"safe\u202eexe.\u2066x\u200f"),
        ("hid\u200bden\ufeff\u00ad", r"hid\u200bden\ufeff\xad"),
        ("tag\U000e0041", r"tag\U000e0041"),
        ("line\u2028para\u2029next\x85", r"line\u2028para\u2029next\x85"),
        ("lone \ud83d and \udcff", "lone \ufffd and \ufffd"),
        ("日本語 é 👩\u200d💻 →", "日本語 é 👩\u200d💻 →"),
    ],
)
def test_what_would_steer_a_terminal_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown
    printable(text).encode("utf-8")


def test_text_of_several_lines_keeps_what_it_is_told_to() -> None:
    assert printable("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"


def test_a_terminal_that_lacks_a_character_gets_its_escape() -> None:
    code = (
        "import sys; from shiftdc_eval.core.terminal import tolerate_encoding as t; t();"
        "print('a → \\ud800'); print('→', file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env={"PYTHONIOENCODING": "ascii", "PATH": ""},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"a \\u2192 \\ud800\n", b"\\u2192\n")
