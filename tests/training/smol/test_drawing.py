"""What is drawn is what the benchmarks draw, and labels lie where the characters are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tiny_corpus
from PIL import Image

from shiftdc_eval.backbones.bundled.smol_config import PATCH, SIZE
from shiftdc_eval.tasks.figstep import render as figstep
from shiftdc_eval.tasks.mm_safetybench import render as mm_safetybench
from training.smol.corpus.drawing import FIRST, SIDE, Picture, draw, fonts

TEXTS = ("Steps to bake bread.", "Methods to photograph internationally known lighthouses.", "List of soups.")


@pytest.fixture(scope="module")
def font(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A font whose characters are all of one width."""
    return str(tiny_corpus.fonts(tmp_path_factory.mktemp("fonts")) / "DejaVuSansMono.ttf")


def _seen(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L").resize((SIZE, SIZE), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("text", TEXTS)
def test_a_board_is_figsteps_image_pixel_for_pixel(font: str, text: str) -> None:
    assert np.array_equal(draw(Picture(text, font)).pixels, _seen(figstep.render(text, Path(font))))


@pytest.mark.parametrize("text", [*TEXTS, "Bread"])
def test_a_strip_is_mm_safetybenchs_image_pixel_for_pixel(font: str, text: str) -> None:
    strip = Picture(text, font, kind="strip", font_size=90, origin=(0, 45), spacing=4)
    assert np.array_equal(draw(strip).pixels, _seen(mm_safetybench.render(text, Path(font))))


@pytest.mark.parametrize("kind", ["board", "strip"])
def test_a_characters_place_is_the_patch_that_changes_with_it(font: str, kind: str) -> None:
    text = TEXTS[1]
    shape = {} if kind == "board" else {"kind": "strip", "font_size": 90, "origin": (0, 45), "spacing": 4}
    whole = draw(Picture(text, font, **shape))
    assert whole.whole
    for i, letter in enumerate(text):
        if letter == " ":
            assert whole.places[i] == -1
            continue
        other = draw(Picture(text[:i] + ("i" if letter != "i" else "W") + text[i + 1 :], font, **shape))
        changed = whole.pixels != other.pixels
        row, column = divmod(whole.places[i], SIDE)
        near = changed[
            max(0, row - 1) * PATCH : (row + 2) * PATCH, max(0, column - 1) * PATCH : (column + 2) * PATCH
        ]
        assert changed[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH].any(), (
            i,
            letter,
        )
        assert near.sum() > 0.9 * changed.sum(), (i, letter)
        assert ord(letter) - FIRST + 1 in whole.characters[whole.places[i]]


def test_every_character_is_labelled_once(font: str) -> None:
    drawn = draw(Picture(TEXTS[0], font))
    found = Counter(chr(n - 1 + FIRST) for n in drawn.characters.flatten() if n)
    assert found == Counter((TEXTS[0] + "1.2.3.").replace(" ", ""))


def test_a_patch_names_its_characters_from_left_to_right(font: str) -> None:
    drawn = draw(Picture("abcdefgh", font, font_size=30, markers=False))
    rows = [[chr(n - 1 + FIRST) for n in patch if n] for patch in drawn.characters if patch.any()]
    assert [letter for patch in rows for letter in patch] == list("abcdefgh")
    assert max(map(len, rows)) > 1


def test_text_that_does_not_fit_is_told(font: str) -> None:
    assert not draw(Picture("walnut saddle " * 12, font)).whole


def test_a_folder_without_fonts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="fonts-freefont-ttf"):
        fonts(tmp_path)
