"""Names that modules had until version 0.1 work once more, and say what to import."""

import importlib
import subprocess
import sys

import pytest

from shiftdc_eval._moved import MOVED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_name_is_the_module_under_its_new_name(old: str) -> None:
    sys.modules.pop(f"shiftdc_eval.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"shiftdc_eval.{old} is shiftdc_eval.{MOVED[old]} now"):
        found = importlib.import_module(f"shiftdc_eval.{old}")
    assert found is importlib.import_module(f"shiftdc_eval.{MOVED[old]}")
    assert found.__name__ == f"shiftdc_eval.{MOVED[old]}"
    assert found.__spec__ is not None
    assert found.__spec__.name == found.__name__


def test_a_package_that_is_no_more_says_where_its_modules_are() -> None:
    code = "import warnings; warnings.simplefilter('always'); import shiftdc_eval.toy"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = "DeprecationWarning: shiftdc_eval.toy is shiftdc_eval.tasks.toy.world now; the old name goes"
    assert said in done.stderr


def test_names_out_of_an_old_module_are_the_same_objects() -> None:
    code = (
        "from shiftdc_eval.contrast import load_contrast as old; "
        "from shiftdc_eval.defenses.contrast import load_contrast as new; "
        "from shiftdc_eval.toy import world; assert old is new and world.items"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_name_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match="shiftdc_eval.nothing"):
        importlib.import_module("shiftdc_eval.nothing")
