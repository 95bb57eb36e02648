"""What ShiftDC costs beside no defense, on the fast engine, on the plain one, and in a naive loop.

    python tests/benchmarks/defense_cost.py                                      # tiny random LLaVA on the CPU
    python tests/benchmarks/defense_cost.py --pretrained toy --batch-size 8
    python tests/benchmarks/defense_cost.py --shape llava-1.5-7b --device cuda   # the table of docs/speed.md
    python tests/benchmarks/defense_cost.py --shape llava-1.5-7b --device cuda --quick

A benchmark, not a test: each line is printed as soon as it is measured, and what fails says so and is left
out. Random weights never end an answer by themselves: answers and captions run to their limit. Times are per
sample, preprocessing included, after a warm-up that is shown apart.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

try:
    import torch
    from fixed_directions import FixedDirections
    from random_llava import SHAPES, backbone_of, random_llava, requests

    from shiftdc_eval.backbones import Backbone, GenerationSettings, ModelSpec, load_backbone, machine
    from shiftdc_eval.backbones.fast.selfcheck import disagreement
    from shiftdc_eval.core import provenance
    from shiftdc_eval.defenses import Request, Tools
    from shiftdc_eval.defenses.caption_store import CaptionStore
    from shiftdc_eval.defenses.none import NoDefense
    from shiftdc_eval.defenses.shiftdc import ShiftDC
    from shiftdc_eval.steering import SafetyDirection
except ImportError as missing:
    sys.exit(
        f"{missing}: this script needs torch, transformers >= 5.17, torchvision, pydantic, PyYAML, scikit-learn; "
        "a machine without a network can be given the wheels of what it lacks (PYTHONPATH)"
    )

TARGETS = {"none": 38.0, "shiftdc": 75.0, "shiftdc, captions stored": 46.0}
"""Milliseconds a sample on one H200 at LLaVA-1.5-7B size; an H100 has 1.25 times as long."""
PHRASE = "What is shown in the picture, and what stands beside it?"
"""What requests to a model of its own tokenizer are made of."""
NAIVE_SAMPLES = {"cuda": 2, "cpu": 16}
"""Samples of the naive loop by device: on a GPU one takes seconds."""
SLOW_SAMPLES = 128
"""Samples of the plain engine at most: it is slow, and its time a sample does not depend on how many there are."""


class Warned(logging.Handler):
    """Prints the package's warnings and keeps them: a capture that failed changes every number."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Print and keep."""
        self.lines.append(record.getMessage())
        print(f"  WARNING {self.lines[-1]}", flush=True)


class Bench:
    """Measurements of one model, printed as they come."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.begun = time.perf_counter()
        self.warned = Warned()
        logging.getLogger("shiftdc_eval").addHandler(self.warned)
        self.found: dict[str, float] = {}
        """Way -> milliseconds a sample."""
        self.facts: dict[str, Any] = {}
        self.failed: dict[str, str] = {}
        if args.pretrained:
            first = load_backbone(ModelSpec(args.pretrained, device=args.device, engine="plain"))
            self.model, self.processor = first.model, first.processor
            self.name, side = first.name, 336
        else:
            self.model, self.processor = random_llava(args.shape, args.device, getattr(torch, args.dtype))
            self.name, side = f"random {args.shape}", SHAPES[args.shape]["side"]
        phrase = PHRASE if args.pretrained else ""
        self.asked = requests(args.samples, side, args.text_tokens, phrase=phrase)
        self.settings = GenerationSettings(max_new_tokens=args.new_tokens)
        self.shiftdc = ShiftDC(caption_max_new_tokens=args.caption_tokens)
        self.backbones: dict[str, Backbone] = {}
        self.batch = 1
        self.ids: list[tuple[int, ...]] = []

    def backbone(self, engine: str) -> Backbone:
        """The model behind an engine; one that served before gives its memory back."""
        for name, other in self.backbones.items():
            if name != engine:
                other.release()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if engine not in self.backbones:
            backbone = backbone_of(self.model, self.processor, self.args.shape, engine)
            backbone.name = self.name
            self.backbones[engine] = backbone
        return self.backbones[engine]

    def tools(self, backbone: Backbone, store: CaptionStore) -> Tools:
        """Tools with a random direction."""
        torch.manual_seed(0)
        vectors = torch.randn(len(backbone.layers), backbone.hidden_size)
        direction = SafetyDirection(vectors, backbone.name, backbone.revision, "t", "c", 1, 1)
        return Tools(backbone, store, FixedDirections(direction))

    def run(
        self, backbone: Backbone, defense: Any, store: CaptionStore, batch: int, asked: Sequence[Request]
    ) -> float:
        """Milliseconds a sample."""
        tools = self.tools(backbone, store)

        def answer_all() -> None:
            for start in range(0, len(asked), batch):
                defense.answer(tools, asked[start : start + batch], self.settings)

        return 1000 * timed(answer_all, backbone.device) / len(asked)

    def step(self, label: str, measure: Callable[[], Any]) -> Any:
        """Measure and print one thing; a failure is printed and remembered, and the rest goes on."""
        spent = time.perf_counter() - self.begun
        if spent > self.args.budget:
            self.failed[label] = f"left out: {spent:.0f} s of {self.args.budget:.0f} s are spent"
            self.say(f"  {label:<44} {self.failed[label]}")
            return None
        try:
            value = measure()
        except Exception as error:  # one measurement must not take the others with it
            self.failed[label] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            self.say(f"  {label:<44} FAILED {self.failed[label]}")
            if self.args.traceback:
                traceback.print_exc()
        if label in self.failed:  # only now does nothing hold what the error's frames held
            for backbone in self.backbones.values():
                backbone.release()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return None
        if isinstance(value, float):
            self.found[label] = value
            self.say(f"  {label:<44} {value:9.1f} ms a sample   {self._ratios(label, value)}")
            self.save()
        return value

    def save(self) -> None:
        """Write what is known so far: a run that is stopped leaves its numbers."""
        if self.args.json:
            self.args.json.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self.summary(), indent=1, default=str)
            self.args.json.write_text(text + "\n", encoding="utf-8")

    def say(self, line: str) -> None:
        """Print at once."""
        print(line, flush=True)

    def _ratios(self, label: str, value: float) -> str:
        engine, _, way = label.partition(": ")
        none = self.found.get(f"{engine}: none")
        said = [f"{value / none:5.2f} x none"] if none and way != "none" else []
        target = TARGETS.get(way)
        if target and self.args.shape == "llava-1.5-7b" and engine.startswith("fast"):
            said.append(f"(target {target:.0f} on an H200)")
        return "   ".join(said)

    def fast(self) -> None:
        """The fast engine: a warm-up, then the ways that the table shows."""
        backbone, label = self.backbone("fast"), "fast"
        self.step("fast: self-check", lambda: self.self_check(label, backbone))
        self.batch, store = self._batch(backbone), CaptionStore(None)
        ways: list[tuple[str, Any, CaptionStore]] = [
            ("none", NoDefense(), CaptionStore(None)),
            ("shiftdc", self.shiftdc, store),
            ("shiftdc, captions stored", self.shiftdc, store),
        ]

        def warm_up() -> bool:
            begun, first = time.perf_counter(), self.asked[: self.batch]
            stored = CaptionStore(None)
            for _ in range(
                2
            ):  # the widest prompts first: memory that grows throws away what was recorded for it
                self.run(backbone, self.shiftdc, stored, self.batch, first)
            self.run(backbone, NoDefense(), CaptionStore(None), self.batch, first)
            took = time.perf_counter() - begun
            self.facts[f"{label}: warm-up, s"] = round(took, 1)
            self.say(f"  {label + ': warm-up at batch ' + str(self.batch):<44} {took:9.1f} s")
            return True

        while not self.step(warming := f"{label}: warm-up at batch {self.batch}", warm_up):
            if "OutOfMemory" not in self.failed[warming] or self.batch < 2:
                break
            self.batch //= 2
        # whole batches: the last one would be a shape of its own, recorded while the clock runs
        asked = self.asked[: len(self.asked) // self.batch * self.batch]
        for way, defense, kept in ways:
            self.step(
                f"{label}: {way}",
                lambda defense=defense, kept=kept: self.run(backbone, defense, kept, self.batch, asked),
            )
        self.step("answers to compare", lambda: self.answers(backbone))
        self.step(f"{label}: parts", lambda: self.parts(label, backbone))
        self.steps(label, backbone)

    def self_check(self, label: str, backbone: Backbone) -> None:
        """What the engine's own check finds: the largest difference of a logit from the plain path."""
        found = disagreement(backbone)
        backbone.release()
        self.facts[f"{label}: self-check, standard deviations"] = found
        self.say(f"  {label + ': self-check, logits differ by':<44} {found:9.4f} standard deviations")
        self.steps(label, backbone)

    def steps(self, label: str, backbone: Backbone) -> None:
        """How decode steps ran since the last look."""
        steps = backbone.fast.stepper.steps
        shown = {f"{how} {rows} x {columns}": count for (how, rows, columns), count in sorted(steps.items())}
        self.facts[f"{label}: steps, rows x columns"] = {
            **self.facts.get(f"{label}: steps, rows x columns", {}),
            **shown,
        }
        self.say(f"      decode steps (rows x columns): {shown}")
        steps.clear()

    def answers(self, backbone: Backbone) -> None:
        """Keep the fast engine's token ids, to be compared with the plain engine's."""
        chats = [request.chat for request in self.asked[: self.batch]]
        self.ids = [answer.ids for answer in backbone.generate(chats, self.settings)]

    def _batch(self, backbone: Backbone) -> int:
        if self.args.batch_size:
            return int(self.args.batch_size)
        width = backbone.features([self.asked[0].chat]).width
        # the caption prompt is longer than the question
        room = backbone.fast.capacity(width + 96 + max(self.args.new_tokens, self.args.caption_tokens))
        most = max(1, min(room, self.args.max_batch, len(self.asked)))
        even = len(self.asked) // math.ceil(len(self.asked) / most)
        return even - even % 8 if even > 8 else even

    def parts(self, label: str, backbone: Backbone) -> None:
        """Where the time of a batch goes: prefill, one decode step, image prefix, suffix, text-only pass."""
        chats = [request.chat for request in self.asked[: self.batch]]
        count = len(chats)
        one, more = GenerationSettings(max_new_tokens=1), self.settings
        layers = list(range(len(backbone.layers) // 2, len(backbone.layers)))
        found: dict[str, float] = {}

        def clocked(name: str, work: Callable[[], Any], share: float = count) -> float:
            found[name] = 1000 * timed(work, backbone.device) / share
            return found[name]

        backbone.generate(chats, more)
        prefill = clocked("prefill of the whole prompt, ms a sample", lambda: backbone.generate(chats, one))
        both = 1000 * timed(lambda: backbone.generate(chats, more), backbone.device)
        found["decode step of the batch, ms"] = (both - prefill * count) / max(1, more.max_new_tokens - 1)
        with backbone.sharing(chats):
            stored = clocked("prefix and suffix, ms a sample", lambda: backbone.generate(chats, one))
            again = clocked("suffix on a stored prefix, ms a sample", lambda: backbone.generate(chats, one))
        found["image prefix, ms a sample"] = stored - again
        text = [
            chat.without_images().with_request(chat.request + " w1" * self.args.caption_tokens)
            for chat in chats
        ]
        backbone.last_token_activations(text, layers)
        clocked("text-only pass, ms a sample", lambda: backbone.last_token_activations(text, layers))
        encoded = chats[: min(32, count)]
        clocked("encoding (CPU), ms a sample", lambda: backbone.features(encoded), len(encoded))
        for name, value in found.items():
            self.say(f"      {name:<42} {value:9.2f}")
        self.facts[f"{label}: parts"] = {name: round(value, 3) for name, value in found.items()}
        if backbone.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**30
            self.facts[f"{label}: peak GPU memory, GiB"] = round(peak, 1)
            self.say(f"      {'peak GPU memory, GiB':<42} {peak:9.1f}")

    def plain(self) -> None:
        """The plain engine at the same batch."""
        backbone = self.backbone("plain")
        asked = self.asked[: min(SLOW_SAMPLES, len(self.asked))]
        store = CaptionStore(None)
        batch = min(self.args.plain_batch or self.batch, len(asked))
        if backbone.device.type == "cuda":  # attention kernels are planned for every length that occurs
            self.run(backbone, NoDefense(), CaptionStore(None), batch, asked[:batch])
        self.step("plain: none", lambda: self.run(backbone, NoDefense(), CaptionStore(None), batch, asked))
        if self.args.quick:
            return
        self.step("plain: shiftdc", lambda: self.run(backbone, self.shiftdc, store, batch, asked))
        self.step(
            "plain: shiftdc, captions stored", lambda: self.run(backbone, self.shiftdc, store, batch, asked)
        )

    def naive(self) -> None:
        """A loop that takes one request at a time and shares nothing."""
        backbone = self.backbone("plain")
        asked = self.asked[: NAIVE_SAMPLES[self.args.device.split(":")[0]] if not self.args.quick else 1]
        if backbone.device.type == "cuda":
            self.run(backbone, self.shiftdc, CaptionStore(None), 1, self.asked[-1:])
        self.step("naive loop: none", lambda: self.run(backbone, NoDefense(), CaptionStore(None), 1, asked))
        self.step(
            "naive loop: shiftdc", lambda: self.run(backbone, self.shiftdc, CaptionStore(None), 1, asked)
        )

    def agreement(self) -> None:
        """How far the fast engine's answers are the plain one's, and the plain one's those of half its batch."""
        chats = [request.chat for request in self.asked[: min(64, self.batch, len(self.asked))]]
        backbone = self.backbone("plain")

        def plainly(size: int) -> list[tuple[int, ...]]:
            parts = [chats[start : start + size] for start in range(0, len(chats), size)]
            return [answer.ids for part in parts for answer in backbone.generate(part, self.settings)]

        plain = plainly(len(chats))
        self.compare("fast against plain", self.ids[: len(chats)], plain)
        if len(chats) > 1:
            self.compare("plain against plain in half batches", plainly(len(chats) // 2), plain)

    def compare(self, label: str, some: Sequence[tuple[int, ...]], others: Sequence[tuple[int, ...]]) -> None:
        """How many answers are equal, and at which token the others part."""
        pairs = list(zip(some, others, strict=True))
        first = sorted(
            next(at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
            for one, other in pairs
            if one != other
        )
        self.facts[label] = {
            "answers": len(pairs),
            "equal": len(pairs) - len(first),
            "first difference at token (sorted)": first,
            "median first difference": first[len(first) // 2] if first else None,
        }
        self.say(
            f"  {label}: {len(pairs) - len(first)} of {len(pairs)} answers equal; first difference at token "
            f"{first[len(first) // 2] if first else '-'} (median of the others; earliest {first[0] if first else '-'})"
        )

    def summary(self) -> dict[str, Any]:
        """Everything, JSON-ready."""
        naive = {way: self.found.get(f"naive loop: {way}") for way in ("none", "shiftdc")}
        ratios = {}
        for way in TARGETS:
            mine, base = self.found.get(f"fast: {way}"), self.found.get("fast: none")
            slow = naive["none" if way == "none" else "shiftdc"]
            ratios[way] = {
                "ms": mine,
                "to none": mine / base if mine and base else None,
                "naive loop to this": slow / mine if mine and slow else None,
            }
        return {
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "model": self.name,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "hardware": machine.hardware([next(self.model.parameters()).device]),
            "versions": {**provenance.versions(), "torch": torch.__version__},
            "settings": {key: value for key, value in vars(self.args).items() if key != "json"},
            "batch": self.batch,
            "ms_a_sample": self.found,
            "table": ratios,
            "facts": self.facts,
            "failed": self.failed,
            "warnings": self.warned.lines,
        }


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a call, the device's queue drained before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pretrained", help="a model to load instead of random weights")
    parser.add_argument("--shape", choices=list(SHAPES), default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="bfloat16 on a GPU, else float32")
    parser.add_argument("--batch-size", type=int, help="found from free memory when left out (CPU: 8)")
    parser.add_argument("--max-batch", type=int, default=256, help="upper bound of a batch that is found")
    parser.add_argument("--plain-batch", type=int, help="batch of the plain engine; as the fast one's")
    parser.add_argument("--samples", type=int, help="512 on a GPU, else 32")
    parser.add_argument("--text-tokens", type=int, default=60, help="text tokens of a prompt")
    parser.add_argument("--new-tokens", type=int, help="128 on a GPU, else 32")
    parser.add_argument("--caption-tokens", type=int, help="as --new-tokens")
    parser.add_argument("--budget", type=float, default=540, help="seconds after which the rest is left out")
    parser.add_argument("--quick", action="store_true", help="fewer samples, no plain ShiftDC")
    parser.add_argument("--traceback", action="store_true")
    parser.add_argument("--json", type=Path, help="write everything there too")
    args = parser.parse_args()
    on_gpu = args.device.startswith("cuda")
    args.dtype = args.dtype or ("bfloat16" if on_gpu else "float32")
    args.samples = args.samples or ((128 if args.quick else 512) if on_gpu else 32)
    args.new_tokens = args.new_tokens or (128 if on_gpu else 32)
    args.caption_tokens = args.caption_tokens or args.new_tokens
    args.batch_size = args.batch_size or (None if on_gpu else 8)
    return args


def main() -> None:
    """Measure and print."""
    args = arguments()
    bench = Bench(args)
    device = next(bench.model.parameters()).device
    bench.say(
        f"{bench.name}, {args.dtype}, on {machine.hardware([device])}; torch {torch.__version__}, "
        f"transformers {provenance.versions().get('transformers')}; {args.samples} samples, {args.text_tokens} text "
        f"tokens, {args.new_tokens} answer and {args.caption_tokens} caption tokens; made in "
        f"{time.perf_counter() - bench.begun:.0f} s"
    )
    for name, phase in (
        ("fast engine", bench.fast),
        ("naive loop", bench.naive),
        ("agreement", bench.agreement),
        ("plain engine", bench.plain),
    ):
        bench.step(name, phase)
    summary = bench.summary()
    bench.say("  way                          ms a sample   to none   naive loop takes")
    for way, row in summary["table"].items():
        cells = [f"{value:.2f}" if value else "-" for value in row.values()]
        bench.say(f"  {way:<28} {cells[0]:>11} {cells[1]:>9} {cells[2]:>13} x as long")
    bench.save()
    if bench.failed:
        bench.say(f"  not measured: {', '.join(bench.failed)}")


if __name__ == "__main__":
    main()
