"""A process that has imported everything and forks: real processes without ten seconds of imports each.

What is killed, started twice or told its rank by the environment has to be a process of its own. `Warm` is a fork of
pytest's own process, made when all tests are collected and none has run; each call is a fork of that.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import loguru

PRELOADED = (
    "lmms_eval.__main__",
    "shiftdc_eval.cli",
    "shiftdc_eval.grid.cli",
    "shiftdc_eval.grid.run",
    "shiftdc_eval.plugin.adapter",
    "shiftdc_eval.plugin.run",
    "transformers.models.llava.modeling_llava",
)


@dataclass
class Forked:
    """One call in a process of its own."""

    warm: Warm
    pid: int
    path: Path
    status: int | None = None
    """Exit status once it was waited for; negative: the signal that ended it."""

    def output(self) -> str:
        """What it has printed."""
        return self.path.read_text(encoding="utf-8", errors="replace")

    def running(self) -> bool:
        """Whether it has not ended yet."""
        if self.status is None:
            self.status = self.warm.ask({"look": self.pid})["status"]
        return self.status is None

    def wait(self) -> int:
        """Its exit status."""
        if self.status is None:
            self.status = self.warm.ask({"wait": self.pid})["status"]
        assert self.status is not None
        return self.status


class Warm:
    """The process that forks."""

    def __init__(self) -> None:
        _preload()
        asked, ask = os.pipe()
        told, tell = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(ask)
            os.close(told)
            _serve(os.fdopen(asked), os.fdopen(tell, "w"))
        os.close(asked)
        os.close(tell)
        self._ask, self._told = os.fdopen(ask, "w"), os.fdopen(told)
        self._count = 0

    def close(self) -> None:
        """End it."""
        self._ask.close()
        self._told.close()
        os.waitpid(self._pid, 0)

    def ask(self, message: Mapping[str, Any]) -> Any:
        """Send a message, read the reply."""
        self._ask.write(json.dumps(message) + "\n")
        self._ask.flush()
        return json.loads(self._told.readline())

    def start(
        self, function: str, *arguments: Any, folder: Path, terminal: str = "", **environment: str
    ) -> Forked:
        """Call `module:function` in a fork, in this process's environment and a folder of its own.

        Args:
            function: what is called.
            arguments: what it is given; JSON.
            folder: its working directory, which gets a file with what it prints.
            terminal: device that it prints to instead.
            environment: further variables.
        """
        self._count += 1
        path = Path(terminal) if terminal else folder / f"output-{self._count}.txt"
        message = {"call": function, "arguments": arguments, "folder": str(folder), "output": str(path)}
        pid = self.ask({**message, "environment": {**os.environ, "OMP_NUM_THREADS": "1", **environment}})[
            "pid"
        ]
        return Forked(self, pid, path)

    def run(self, function: str, *arguments: Any, folder: Path, **environment: str) -> Forked:
        """As `start`, and wait for its end."""
        found = self.start(function, *arguments, folder=folder, **environment)
        found.wait()
        return found


def command(words: list[str]) -> int:
    """`shiftdc-eval WORDS`; where `run` would start a process, a fork."""
    from shiftdc_eval import cli
    from shiftdc_eval.core.terminal_log import pass_on
    from shiftdc_eval.plugin import lmms_process, run

    def forked(given: list[str], *, streamed: bool) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _leave(lambda: lmms_process.main(given[3:]), writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            pass_on(pipe)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    run._stream = forked
    return cli.main(words)


def lmms_eval(words: list[str]) -> None:
    """`lmms-eval WORDS`."""
    from lmms_eval.__main__ import cli_evaluate

    sys.argv = ["lmms-eval", *words]
    cli_evaluate()


def grid(words: list[str]) -> int:
    """`shiftdc-eval grid WORDS` with a task index of ours alone, and directions from few pairs."""
    from adapter_harness import manager
    from few_pairs import few

    from shiftdc_eval.cli import main
    from shiftdc_eval.defenses import directions
    from shiftdc_eval.grid import tasks

    directions.load_contrast = few
    tasks._manager[:] = [manager()]
    return main(["grid", *words])


def adapter(arguments: str, pause_after: int) -> None:
    """FigStep through the adapter; says when a batch is journalled, and pauses after one of them."""
    import time

    from adapter_harness import evaluate

    from shiftdc_eval.plugin.adapter import ShiftDCVlm
    from shiftdc_eval.plugin.journal import Journal

    append, batches = Journal.append, []

    def watched(journal: Any, records: Any) -> None:
        append(journal, records)
        batches.append(1)
        print("batch", flush=True)
        if len(batches) == pause_after:
            time.sleep(60)

    Journal.append = watched  # type: ignore[method-assign]
    evaluate(ShiftDCVlm.create_from_arg_string(arguments), "figstep", gen_kwargs="max_new_tokens=6")


def _leave(call: Any, output: int) -> None:
    """In a fork: call with this output, and end the process with what it gives, without the parent's exit handlers."""
    status = 1
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        try:
            status = call() or 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _serve(questions: IO[str], replies: IO[str]) -> None:
    """Fork and wait as asked; ends the process."""
    try:
        _leave_pytest()
        import torch
        from adapter_harness import manager

        torch.set_num_threads(1)  # a fork has none of its parent's threads
        ours = manager()  # lmms-eval's own index takes seconds in every fork
        sys.modules["lmms_eval.__main__"].TaskManager = lambda *_, **__: ours  # type: ignore[attr-defined]
        for line in questions:
            replies.write(json.dumps(_reply(json.loads(line))) + "\n")
            replies.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _preload() -> None:
    """Import and read in pytest's own process what every fork would otherwise read for itself."""
    for name in PRELOADED:
        importlib.import_module(name)
    from adapter_harness import manager

    from shiftdc_eval.judges import get_judge
    from shiftdc_eval.judges.verdict import Item

    manager()
    get_judge("keyword_multilingual").judge(
        [Item("1", "What?", "Je ne peux pas vous aider avec cette demande.")]
    )
    gc.freeze()  # no fork collects, and so copies, what the imports made


def _leave_pytest() -> None:
    """What is printed, logged and raised here is no longer pytest's."""
    sys.stdout = sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    logging.getLogger().handlers.clear()
    for one in logging.root.manager.loggerDict.values():
        for handler in getattr(one, "handlers", ()):
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.setStream(sys.stderr)
    loguru.logger.remove()
    loguru.logger.add(sys.stderr)
    threading.excepthook = threading.__excepthook__
    sys.unraisablehook = sys.__unraisablehook__


def _reply(message: Mapping[str, Any]) -> dict[str, Any]:
    if "call" not in message:
        flags = os.WNOHANG if "look" in message else 0
        ended, status = os.waitpid(message.get("look") or message["wait"], flags)
        return {"status": os.waitstatus_to_exitcode(status) if ended else None}
    output = os.open(message["output"], os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_NOCTTY, 0o644)
    pid = os.fork()
    if pid == 0:
        os.environ.clear()
        os.environ.update(message["environment"])
        os.chdir(message["folder"])
        module, _, function = message["call"].partition(":")
        call = getattr(importlib.import_module(module), function)
        _leave(lambda: call(*message["arguments"]), output)
    os.close(output)
    return {"pid": pid}
