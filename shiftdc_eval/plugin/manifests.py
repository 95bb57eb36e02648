"""Registers our model ids and our task folder with lmms-eval when it starts.

lmms-eval finds models through the entry-point group `lmms_eval.models`, but has none for tasks, and
reads `LMMS_EVAL_PLUGINS` too late. So the entry-point callable also extends
`TaskManager.initialize_tasks` with our folder. It runs at every start of lmms-eval, for users of any
model: it imports nothing heavy, and it never raises, because an exception here would disable every
other plugin too.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

logger = logging.getLogger(__name__)

TASKS_MODULE = "lmms_eval.tasks"
TASKS_FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "tasks")
"""Our task folder."""

CLASS_PATHS = {
    "shiftdc_server": "shiftdc_eval.plugin.adapter.ShiftDCServer",
    "shiftdc_llava": "shiftdc_eval.plugin.adapter.ShiftDCLlava",
    "shiftdc_vlm": "shiftdc_eval.plugin.adapter.ShiftDCVlm",
}
"""Model id -> class path of its chat model."""


def manifests() -> list[ModelManifest]:
    """Our models; also registers our tasks. Never raises."""
    # here, because importing lmms-eval's models calls this function
    from lmms_eval.models.registry_v2 import ModelManifest

    try:
        extend_task_manager()
    except Exception:  # a boundary: lmms-eval drops every plugin when one of them raises
        logger.warning("shiftdc-eval: its tasks could not be added to lmms-eval", exc_info=True)
    return [ModelManifest(model_id=name, chat_class_path=path) for name, path in CLASS_PATHS.items()]


def extend_task_manager() -> None:
    """Patch `TaskManager` now where its module is loaded, else as soon as it is. Idempotent."""
    module = sys.modules.get(TASKS_MODULE)
    if module is not None and hasattr(module, "TaskManager"):
        _patch(module)
    elif not any(isinstance(finder, _TasksFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TasksFinder())


def _patch(module: ModuleType) -> None:
    manager = module.TaskManager
    original = manager.initialize_tasks
    if not getattr(original, "_shiftdc", False):
        manager.initialize_tasks = _with_our_tasks(original)
        manager._get_config = _with_blank_images(manager._get_config)


def _with_our_tasks(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    @functools.wraps(original)
    def initialize_tasks(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        _end_wrong_input_in_one_line()
        index = original(self, *args, **kwargs)
        ours = self._get_task_and_group(TASKS_FOLDER)
        for entry in ours.values():
            if entry["type"] == "python_task":
                entry["type"] = "task"  # otherwise `--tasks list_subtasks` would leave it out
        from shiftdc_eval.tasks.catalogue import TWINS

        twins = {name: ours[info.twin_of] for name, info in TWINS.items() if info.twin_of in ours}
        # a name that lmms-eval or the user's include_path knows wins
        return {**twins, **ours, **index}

    initialize_tasks._shiftdc = True  # type: ignore[attr-defined]
    return initialize_tasks


def _with_blank_images(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A blank-image twin has no yaml file of its own: it is its task's with another name and `image: blank`."""

    @functools.wraps(original)
    def _get_config(self: Any, name: str) -> dict[str, Any]:
        from shiftdc_eval.tasks.catalogue import TWINS

        config: dict[str, Any] = original(self, name)
        if config.get("task") == name or name not in TWINS:
            return config
        return {
            **config,
            "task": name,
            "dataset_kwargs": {**config.get("dataset_kwargs", {}), "image": "blank"},
        }

    return _get_config


def _end_wrong_input_in_one_line() -> None:
    """Under the command `lmms-eval`: our errors about wrong input end it with one line and status 2.

    It would print a traceback, one line more, and exit 0.
    """
    command = sys.modules.get("lmms_eval.__main__")
    if command is None or getattr(command, "traceback", None) is not traceback:
        return  # used as a library, or done already
    from shiftdc_eval.core.terminal import printable
    from shiftdc_eval.plugin.lmms_process import one_line_for_wrong_input

    def tell(message: str) -> None:
        for line in message.splitlines():
            print(f"shiftdc-eval: {printable(line)}", file=sys.stderr, flush=True)

    # a file of several runs goes on with the next one
    several = any(word.partition("=")[0] == "--config" for word in sys.argv)
    one_line_for_wrong_input(command, tell, stop=not several)


class _TasksFinder(MetaPathFinder):
    """Waits for the import of `lmms_eval.tasks` and steps aside once it is patched."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != TASKS_MODULE:
            return None
        for finder in sys.meta_path:
            spec = finder.find_spec(fullname, path, target) if finder is not self else None
            if spec is not None and spec.loader is not None:
                spec.loader = _PatchingLoader(spec.loader, self)
                return spec
        return None


class _PatchingLoader(Loader):
    """The module's own loader, with the patch applied after the module has run."""

    def __init__(self, loader: Loader, finder: MetaPathFinder) -> None:
        self._loader = loader
        self._finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._loader
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        _patch(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
