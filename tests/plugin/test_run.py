"""What `shiftdc-eval run` shows of an error that ends lmms-eval."""

import traceback

import pytest

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.plugin.lmms_process import unless_wrong_input


def printed(error: Exception, capsys: pytest.CaptureFixture[str]) -> str:
    """What is printed where lmms-eval prints the traceback of an error."""
    try:
        raise error
    except Exception:
        unless_wrong_input(traceback.print_exc)()
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("model argument alpha=big"),
        ValueError("Tasks not found: figstepp."),
        ValueError("Model 'shiftdc_lava' not found"),
    ],
)
def test_wrong_input_prints_no_traceback(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(error, capsys) == ""


def test_any_other_error_prints_its_whole_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    caused_by_input = KeyError("x")
    caused_by_input.__cause__ = ConfigError("alpha=big")
    for error in (KeyError("x"), ValueError("not a number"), caused_by_input):
        said = printed(error, capsys)
        assert said.startswith(("Traceback (most recent call last):", "shiftdc_eval.core.errors.ConfigError"))
        assert said.endswith(f"{type(error).__name__}: {error}\n")
