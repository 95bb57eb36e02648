"""What is planted in synthetic activations comes back within its interval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from synthetic import Planted, save_direction, write

from shiftdc_eval.analysis.measures import VisualProbe, coordinates
from shiftdc_eval.analysis.recording_file import Recording
from shiftdc_eval.analysis.report import analyse, labels_of
from shiftdc_eval.core.errors import ConfigError, DataError, DirectionError
from shiftdc_eval.core.statistics import Estimate
from shiftdc_eval.core.statistics.intervals import numbered
from shiftdc_eval.core.statistics.weighted import Bootstrap
from shiftdc_eval.steering import SafetyDirection


def report_of(folder: Path, **planted: Any) -> dict[str, Any]:
    write(folder, Planted(**planted))
    return analyse(folder, tsne=False)


def inside(curve: dict[str, Any], truth: float, layer: int = 0, slack: float = 0.0) -> bool:
    return bool(curve["low"][layer] - slack <= truth <= curve["high"][layer] + slack)


def inside_one(found: Estimate, truth: float, slack: float = 0.0) -> bool:
    return found.low - slack <= truth <= found.high + slack


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return report_of(tmp_path_factory.mktemp("plain"))


def test_the_shift_has_the_planted_coordinate_and_share(plain: dict[str, Any]) -> None:
    shift = plain["curves"]["shift"]["image - text_caption"]
    along, across = (0.8 * 8) ** 2, 6.0**2
    for layer in (0, 1):
        assert shift["harmful"]["coordinate"]["value"][layer] == pytest.approx(0.8, abs=1e-3)
        assert shift["benign"]["coordinate"]["value"][layer] == pytest.approx(0.0, abs=1e-3)
        assert shift["harmful"]["squared_share"]["value"][layer] == pytest.approx(
            along / (along + across), abs=1e-3
        )
        assert shift["benign"]["norm"]["value"][layer] == pytest.approx(6.0, abs=1e-2)


def test_the_mean_coordinates_are_the_planted_ones(plain: dict[str, Any]) -> None:
    found = plain["curves"]["coordinate"]
    for condition, side, truth in (
        ("text_caption", "harmful", -0.5),
        ("text_caption", "benign", 0.5),
        ("image", "harmful", 0.3),
        ("image", "benign", 0.5),
        ("image_online", "harmful", -0.5),
    ):
        assert inside(found[condition][side], truth), (condition, side)


def test_the_detector_has_the_area_that_two_normal_distributions_have(tmp_path: Path) -> None:
    manifest = write(tmp_path, Planted(length=1.5, questions=150, layers=20))
    recording, labels = Recording(tmp_path), labels_of(manifest)
    planted = SafetyDirection.load(tmp_path / "direction.safetensors").vectors.numpy()
    bootstrap = Bootstrap(numbered(labels.questions))
    found = [
        coordinates(recording.layer(layer), planted[layer], labels, bootstrap)["text"]["detects_harm"]
        for layer in range(20)
    ]
    truth = float(norm.cdf(1.5 / 2**0.5))
    assert sum(inside_one(one, truth) for one in found) >= 17
    assert sum(one.value for one in found) / 20 == pytest.approx(truth, abs=0.01)


def test_the_probe_sees_the_distortion_and_its_repair(plain: dict[str, Any]) -> None:
    probe = plain["curves"]["safety_probe"]["text_caption"]
    assert inside(probe["text_caption"]["accuracy"], 1.0)
    assert probe["image"]["harmful_called_safe"]["value"][0] > 0.9
    assert probe["image_online"]["harmful_called_safe"]["value"][0] < 0.05
    holds = {one["claim"]: one["holds"] for one in plain["findings"]}
    assert all(holds.values()), holds


@pytest.mark.parametrize("noise", [0.1, 0.25])
def test_label_noise_comes_back_as_the_probes_error(tmp_path: Path, noise: float) -> None:
    probe = report_of(tmp_path, label_noise=noise, questions=300)["curves"]["safety_probe"]["text_caption"]
    assert inside(probe["text_caption"]["accuracy"], 1 - noise)
    assert inside(probe["text"]["accuracy"], 1 - noise)


def test_a_probe_that_does_not_read_texts_has_no_say_on_images(tmp_path: Path) -> None:
    report = report_of(tmp_path, shuffled=True, harmful_shift=0.8)
    found = {one["claim"]: one for one in report["findings"]}
    for claim in (
        "distortion: with the image, harmful requests look safe",
        "repair: after online, fewer harmful requests look safe",
    ):
        assert found[claim]["holds"] is None
        assert "does not read texts well enough" in found[claim]["said"]


def test_without_a_distortion_the_report_says_so(tmp_path: Path) -> None:
    report = report_of(tmp_path, harmful_shift=0.0)
    holds = {one["claim"]: one["holds"] for one in report["findings"]}
    assert holds["text alone: harm is linearly visible"] is True
    assert holds["distortion: with the image, harmful requests look safe"] is None
    assert report["refused"]["image"]["harmful"]["refused"] == 120
    assert report["curves"]["refusal"]["image"]["auroc"]["value"][0] > 0.99


def test_with_shuffled_labels_every_probe_is_at_chance(tmp_path: Path) -> None:
    report = report_of(tmp_path, shuffled=True, questions=200)
    for fitted_on, tested in report["curves"]["safety_probe"].items():
        for condition, found in tested.items():
            for layer in (0, 1):
                assert inside(found["accuracy"], 0.5, layer, slack=0.02), (fitted_on, condition, layer)


def test_the_control_with_shuffled_labels_is_at_chance_where_the_probe_is_right(
    plain: dict[str, Any],
) -> None:
    for tested in plain["curves"]["safety_probe"].values():
        for layer in (0, 1):
            assert inside(tested["shuffled labels"]["accuracy"], 0.5, layer, slack=0.02)


def test_copies_of_a_question_never_help_the_probe(tmp_path: Path) -> None:
    # wide and shuffled: a probe that met a copy of its test item would know the label by heart
    found = []
    for seed in range(4):
        report = report_of(
            tmp_path / str(seed), shuffled=True, copies=3, questions=60, hidden=400, length=0.1, seed=seed
        )
        for tested in report["curves"]["safety_probe"].values():
            found += tested["text_caption"]["accuracy"]["value"]
    assert sum(found) / len(found) == pytest.approx(0.5, abs=0.06)


def test_the_visual_probe_reads_the_class_before_and_after(plain: dict[str, Any]) -> None:
    found = plain["curves"]["visual_probe"]["scenario"]
    assert found["image"]["accuracy"]["value"][0] > 0.95
    assert found["image_online"]["accuracy"]["value"][0] > 0.95
    assert (
        found["text_caption"]["accuracy"]["value"][0] < 0.6
    )  # the whole shift removed: nothing is left to see
    assert plain["visual_probes"]["scenario"]["classes"] == 3


def test_where_nothing_is_seen_the_visual_probe_is_at_chance(tmp_path: Path) -> None:
    report = report_of(tmp_path, visual_length=1e-3, questions=150)
    for condition, found in report["curves"]["visual_probe"]["scenario"].items():
        for layer in (0, 1):
            assert inside(found["accuracy"], 1 / 3, layer, slack=0.03), (condition, layer)


def test_what_is_moved_and_what_is_gone_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    kinds = np.arange(120) % 2
    image = rng.standard_normal((120, 20)).astype(np.float32)
    image[:, 0] += 8 * kinds
    moved, gone = np.roll(image, 1, axis=1), image.copy()
    gone[:, 0] -= 8 * kinds
    refused = kinds == 1
    moved[~refused] = image[~refused]
    probe = VisualProbe.of(
        "kind", {at: str(kind) for at, kind in enumerate(kinds)}, [str(at) for at in range(120)]
    )
    bootstrap = Bootstrap(np.arange(120))
    found = {
        name: probe.readout(x, image, (refused, np.ones(120, dtype=bool)), bootstrap)
        for name, x in (("moved", moved), ("gone", gone))
    }
    assert found["moved"]["fitted anew"].value > 0.95
    assert found["moved"]["refused"].value < 0.6
    assert found["moved"]["answered"].value > 0.95
    assert inside_one(found["gone"]["fitted anew"], 0.5, slack=0.1)


def test_directions_of_the_items_and_the_planted_one_agree(plain: dict[str, Any]) -> None:
    assert plain["curves"]["cosine"]["contrast set"]["text_caption"]["value"][0] > 0.98
    assert plain["curves"]["split_half_cosine"]["text_caption"]["value"][0] > 0.95


def test_other_directions_in_the_folder_are_compared(tmp_path: Path) -> None:
    manifest = write(tmp_path, Planted())
    rows = [[0.0] * (manifest.hidden - 1) + [1.0]] * manifest.layers
    save_direction(tmp_path / "directions" / "other.safetensors", rows)
    cosine = analyse(tmp_path, tsne=False)["curves"]["cosine"]["contrast set"]["other"]["value"][0]
    assert abs(cosine) < 0.6


def test_too_few_items_end_in_one_line(tmp_path: Path) -> None:
    write(tmp_path, Planted(questions=7))
    with pytest.raises(DataError, match="at least 10 questions of each class, found 7 of 'benign'") as caught:
        analyse(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_direction_of_another_shape_is_refused(tmp_path: Path) -> None:
    write(tmp_path, Planted(questions=12))
    save_direction(tmp_path / "direction.safetensors", [[1.0] * 5])
    with pytest.raises(DirectionError, match="1 layers x 5, the recording 2 x 48"):
        analyse(tmp_path)


def test_another_direction_than_the_recordings_is_refused(tmp_path: Path) -> None:
    write(tmp_path, Planted(questions=12))
    save_direction(tmp_path / "direction.safetensors", np.ones((2, 48)))
    with pytest.raises(DirectionError, match="the recording was calibrated with") as caught:
        analyse(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_layer_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    write(tmp_path, Planted(questions=12))
    with pytest.raises(ConfigError, match="--layer 9 does not exist: the recording has layers 0 to 1"):
        analyse(tmp_path, layer=9)
