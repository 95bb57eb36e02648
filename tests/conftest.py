"""Fixtures shared by all tests: a cache of their own, no hub, tiny models."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from warm import Warm

    from shiftdc_eval.backbones import Backbone

gc.disable()  # while modules are imported
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path[:0] = [
    str(Path(__file__).parent / folder) for folder in ("support", "defenses", "backbones/convert")
]

settings.register_profile("project", deadline=None)  # a busy machine is no failure
settings.load_profile("project")
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


FIRST = (
    "test_writes",
    "test_families",
    "test_against_plain",
    "test_checked_families",
    "test_cli",
    "test_plugins",
    "test_demo",
    "test_adapter",
    "test_manifests",
    "test_unanswered",
    "test_known_answers",
    "test_merge",
    "test_grid",
)
"""Files of ten CPU seconds and more: begun last, one would keep one of the workers waiting. `test_writes` goes before
all, while the process that it forks hundreds of times is small."""


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest-xdist hand the files out in their order here, and not by the number of their tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Dear files first."""
    places = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(FIRST)))


def pytest_collection_finish() -> None:
    """Hide what the imports made from the garbage collector, which would walk it in every full collection."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's caches and runs."""
    monkeypatch.setenv("SHIFTDC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SHIFTDC_RUNS", str(tmp_path / "runs"))
    for name in ("SHIFTDC_DATA", "SHIFTDC_JUDGES", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directions are fitted on 20 pairs of whichever contrast set is used."""
    from few_pairs import few

    monkeypatch.setattr("shiftdc_eval.defenses.directions.load_contrast", few)


_warm: list[Warm] = []


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Before the first test: lmms-eval asks git once and not six times a run, and the process for `warm` is forked."""
    if hasattr(utils := sys.modules.get("lmms_eval.utils"), "_git_output"):
        utils._git_output = cache(utils._git_output)  # type: ignore[union-attr]
    wanted = any("warm" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly:
        from warm import Warm

        _warm.append(Warm())


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """A process that has imported everything, and forks."""
    (process,) = _warm
    yield process
    process.close()


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random LLaVA-1.5 with 4 decoder layers of width 32."""
    from tiny_models import save_tiny_llava

    return save_tiny_llava(tmp_path_factory.mktemp("models") / "tiny-llava")


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Backbone]:
    """Name of a family -> its random model, made once; no test may change it."""
    from tiny_families import save_family

    from shiftdc_eval.backbones import ModelSpec, load_backbone

    @cache
    def made(name: str) -> Backbone:
        folder = save_family(name, tmp_path_factory.mktemp("families") / name)
        return load_backbone(ModelSpec(str(folder), device="cpu"))

    return made


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real benchmark data beside the checkout; skips where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real benchmark data (../shared/data) is not on this machine")
    return SHARED_DATA


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a headless browser; skips where there is none."""
    import shutil

    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine to open the page in")
    return found
