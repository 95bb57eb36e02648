"""What defenses cost inside vLLM: `engine=vllm` through the package's own batches and defenses, on random weights.

    python tests/benchmarks/vllm_speed.py --shape llava-1.5-7b --json out.json      # the table of docs/engines.md
    OMP_NUM_THREADS=1 python tests/benchmarks/vllm_speed.py --shape tiny --samples 16 --new-tokens 8   # on a CPU

A benchmark, not a test: a way is printed as soon as it is measured, and what fails says so and is left out. Answers and
captions run to their limit. Times are per sample, preprocessing included, after a warm-up; before each way the stored
prefixes and the preprocessed images are forgotten. `--rounds 2` measures every way twice. Two of these started with
`--beside FOLDER --of 2`, each with a card of its own, wait for each other before every way: data parallel.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "support"), str(HERE), str(HERE.parents[1])]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

TARGETS = {"none": 32.0, "shiftdc": 50.0, "shiftdc, captions stored": 35.0}
"""Milliseconds a sample wanted on one H200 at LLaVA-1.5-7B size."""
TELL_TOKENS = 8
"""Tokens of ECSO's self-check reply: random weights never stop, a real model says yes or no."""


def model_folder(shape: str, dtype: str) -> str:
    """A folder with configuration and processor; vLLM makes the weights up (`load_format=dummy`)."""
    import torch
    from random_llava import random_llava

    folder = Path(tempfile.gettempdir()) / f"random-{shape}"
    if not (folder / "config.json").is_file():
        model, processor = random_llava(shape, "meta", getattr(torch, dtype))
        model.config.dtype, model.config.architectures = dtype, [type(model).__name__]
        model.generation_config.save_pretrained(folder)
        processor.save_pretrained(folder)
        model.config.save_pretrained(folder)
    return str(folder)


def used_gib() -> list[float]:
    """GiB in use on each visible card, whoever uses them."""
    import torch

    found = []
    for card in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(card)
        found.append(round((total - free) / 2**30, 1))
    return found


def resident_gib() -> float:
    """Main memory of this process in GiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**30


def samples_of(requests: Sequence[Any], settings: Any) -> list[Any]:
    """Requests as the adapter hands them to `Batches`."""
    from shiftdc_eval.plugin.requests import Sample

    return [
        Sample(
            key=str(at),
            task="speed",
            doc_id=at,
            repeat=0,
            chat=lambda request=request: request.chat,
            seed="",
            length=(1, len(request.chat.request)),
            settings=settings,
            notes=(),
            question="",
            words="",
            image_text=None,
            padding=False,
        )
        for at, request in enumerate(requests)
    ]


class Bench:
    """Measurements, printed as they come."""

    def __init__(self, args: argparse.Namespace) -> None:
        import torch
        from fixed_directions import FixedDirections
        from random_llava import SHAPES, requests

        from shiftdc_eval.backbones import GenerationSettings, ModelSpec
        from shiftdc_eval.backbones.parts import load_parts
        from shiftdc_eval.backbones.vllm.start import start
        from shiftdc_eval.steering import SafetyDirection

        self.args = args
        cuda = torch.cuda.is_available()
        dtype = "bfloat16" if cuda else "float32"
        given = {"gpu_memory_utilization": args.memory} if cuda else {}
        spec = ModelSpec(
            model_folder(args.shape, dtype),
            engine="vllm",
            dtype=dtype,
            max_model_len=args.max_model_len,
            tensor_parallel_size=args.tensor_parallel_size,
            pipeline_parallel_size=args.pipeline_parallel_size,
            **given,
        )
        begun = time.perf_counter()
        self.backbone = start(load_parts(spec), spec, load_format="dummy")
        self.facts: dict[str, Any] = {
            "engine": self.backbone.engine_version,
            "hardware": self.backbone.hardware,
            "shape": args.shape,
            "dtype": dtype,
            "tensor parallel": args.tensor_parallel_size,
            "pipeline parallel": args.pipeline_parallel_size,
            "layers of each worker": [len(layers) for layers in self.backbone.vllm.worker_layers],
            "start, s": round(time.perf_counter() - begun, 1),
            "tokens in the cache": self.backbone.vllm.tokens,
        }
        torch.manual_seed(0)
        vectors = torch.randn(len(self.backbone.layers), self.backbone.hidden_size)
        self.direction = FixedDirections(
            SafetyDirection(vectors, self.backbone.name, self.backbone.revision, "t", "c", 1, 1)
        )
        size = SHAPES[args.shape]
        self.settings = GenerationSettings(max_new_tokens=args.new_tokens)
        asked = requests(args.samples, size.get("picture", size["side"]), args.text_tokens)
        self.samples = samples_of(asked, self.settings)
        self.facts["prompt tokens"] = len(self.backbone.prompt_tokens([asked[0].chat])[0])
        fitting = self.backbone.fitting_rows(asked[0].chat, max(args.new_tokens, args.caption_tokens)) or 32
        self.group = args.group or min(256, fitting)
        self.facts["batch size"] = self.group
        print(json.dumps(self.facts), flush=True)
        self.found: dict[str, list[float]] = {}
        self.met = 0

    def answer(self, defense: Any, store: Any, samples: Sequence[Any]) -> list[dict[str, Any]]:
        """Answer all; their journal records. Says how memory goes where there are many."""
        from shiftdc_eval.defenses import Tools
        from shiftdc_eval.plugin import batches

        batches.LANES = self.args.lanes or batches.LANES
        tools = Tools(self.backbone, store, self.direction)
        records: list[dict[str, Any]] = []
        said = 0
        for _, some in batches.Batches(self.group, None).answered(samples, defense, tools):
            records += some
            if len(samples) > 1000 and len(records) * 4 // len(samples) > said:
                said = len(records) * 4 // len(samples)
                print(
                    f"    after {len(records):5d}: {used_gib()} GiB on the cards, {resident_gib():.2f} GiB here",
                    flush=True,
                )
        return records

    def meet(self) -> None:
        """Wait for the benchmark beside this one."""
        if self.args.beside:
            self.met += 1
            (self.args.beside / f"{self.met}-{os.getpid()}").touch()
            while len(list(self.args.beside.glob(f"{self.met}-*"))) < self.args.of:
                time.sleep(0.01)

    def measure(self, label: str, defense: Any, store: Any) -> None:
        """Print what one way took; a failure is printed, and the rest goes on."""
        llm = self.backbone.vllm._llm
        self.backbone.vllm._pump.call(llm.reset_prefix_cache)
        for forget in ("reset_mm_cache",):
            self.backbone.vllm._pump.call(getattr(llm, forget, lambda: None))
        edits, tokens = self.backbone.edits_made.copy(), self.backbone.tokens_run.copy()
        self.meet()
        begun = time.perf_counter()
        try:
            records = self.answer(defense, store, self.samples)
        except Exception as error:  # one way must not take the others with it
            print(f"  {label:<28} FAILED {type(error).__name__}: {str(error)[:300]}", flush=True)
            return
        taken = time.perf_counter() - begun
        each = 1000 * taken / len(self.samples)
        self.found.setdefault(label, []).append(round(each, 2))
        none = min(self.found.get("none", [each]))
        target = TARGETS.get(label) if self.args.shape == "llava-1.5-7b" else None
        made = sorted(set((self.backbone.edits_made - edits).values()))
        tokens = self.backbone.tokens_run - tokens
        charged = sum(record["seconds"] for record in records) / taken
        print(
            f"  {label:<28} {each:8.1f} ms a sample  {each / none:5.2f} x none"
            f"{f'  (wanted {target:.0f})' if target else ''}  "
            f"{sum(record['tokens_out'] for record in records) / len(records):.1f} tokens an answer  "
            f"{used_gib()} GiB  edited requests a layer {made or 0}  asked again {self.backbone.asked_again}  "
            f"recorded seconds {charged:.3f} of those that passed  "
            f"prompt tokens found in the cache {tokens['stored'] / tokens['asked']:.1%}",
            flush=True,
        )
        self.save()

    def run(self) -> None:
        """Warm up, then every way."""
        from shiftdc_eval.defenses.adashield import AdaShieldS
        from shiftdc_eval.defenses.caption_store import CaptionStore
        from shiftdc_eval.defenses.ecso import Ecso
        from shiftdc_eval.defenses.none import NoDefense
        from shiftdc_eval.defenses.shiftdc import ShiftDC

        shiftdc = ShiftDC(caption_max_new_tokens=self.args.caption_tokens)
        ecso = Ecso(caption_max_new_tokens=self.args.caption_tokens, tell_max_new_tokens=TELL_TOKENS)
        begun = time.perf_counter()
        for defense in (NoDefense(), shiftdc):
            self.answer(defense, CaptionStore(None), self.samples[: min(64, self.args.samples // 4)])
        print(f"  warm-up {time.perf_counter() - begun:.1f} s", flush=True)
        for _ in range(self.args.rounds):
            store = CaptionStore(None)
            ways: list[tuple[str, Any, Callable[[], Any]]] = [
                ("none", NoDefense(), lambda: CaptionStore(None)),
                ("shiftdc", shiftdc, lambda store=store: store),
                ("shiftdc, captions stored", shiftdc, lambda store=store: store),
                ("ecso", ecso, lambda: CaptionStore(None)),
                ("adashield_s", AdaShieldS(), lambda: CaptionStore(None)),
            ]
            for label, defense, kept in ways:
                if not self.args.only or label.split(",")[0] in self.args.only.split("+"):
                    self.measure(label, defense, kept())

    def save(self) -> None:
        """Write what is known so far."""
        if self.args.json:
            said = {**self.facts, "ms a sample": self.found, "used GiB": used_gib()}
            self.args.json.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="tiny")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--text-tokens", type=int, default=60)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--caption-tokens", type=int, default=128)
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument("--memory", type=float, default=0.92, help="share of the card that vLLM takes")
    parser.add_argument("--group", type=int, help="batch size (found from the cache)")
    parser.add_argument("--lanes", type=int, help="parts of a batch (the package's own number)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default="", help="defenses, joined by +")
    parser.add_argument("--tensor-parallel-size", type=int)
    parser.add_argument("--pipeline-parallel-size", type=int)
    parser.add_argument("--beside", type=Path, help="folder in which benchmarks wait for each other")
    parser.add_argument("--of", type=int, default=2, help="how many wait for each other")
    parser.add_argument("--json", type=Path)
    bench = Bench(parser.parse_args())
    bench.run()
    bench.backbone.vllm.close()


if __name__ == "__main__":  # vLLM starts processes, which import this file
    main()
