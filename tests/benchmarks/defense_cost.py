"""What ShiftDC costs beside no defense: milliseconds a sample and ratios, with and without stored captions.

    python tests/benchmarks/defense_cost.py                                   # tiny random LLaVA on the CPU
    python tests/benchmarks/defense_cost.py --pretrained toy --batch-size 8
    python tests/benchmarks/defense_cost.py --shape llava-1.5-7b --device cuda --batch-size 96 --samples 512

A benchmark, not a test: it prints what it measured, and beside it a naive loop (batch 1, nothing shared) from
the same process. `--shape` builds random weights of that shape; answers and captions then run to their limit,
since random weights rarely end an answer.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from PIL import Image

from shiftdc_eval import provenance
from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings, ModelSpec, load_backbone
from shiftdc_eval.captions import CaptionStore
from shiftdc_eval.defenses import Request, Tools
from shiftdc_eval.defenses.none import NoDefense
from shiftdc_eval.defenses.shiftdc import ShiftDC
from shiftdc_eval.steering import SafetyDirection

NAIVE_SAMPLES = 4
"""Samples of the naive loop: it is slow, and its time a sample does not depend on how many there are."""


def picture(index: int, size: int) -> Image.Image:
    """A picture that differs from the others."""
    image = Image.new("RGB", (size, size), "white")
    image.paste((index % 256, (3 * index) % 256, (7 * index) % 256), (0, 0, size // 2, 1 + index % size))
    return image


def requests(count: int, words: int) -> list[Request]:
    """Requests with one picture each and about `words` tokens of text."""
    return [
        Request(Chat.ask("describe this list " * max(1, words // 4), [picture(i, 336)])) for i in range(count)
    ]


def random_7b(folder: Path, device: str) -> Backbone:
    """A LLaVA-1.5-7B of random weights (bfloat16), with the tiny models' tokenizer and a real image processor."""
    from tiny_models import LLAVA_TEMPLATE, tiny_tokenizer
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = tiny_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=32064, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        max_position_embeddings=4096, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=576,
    )  # fmt: skip
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        model = LlavaForConditionalGeneration(config)
        torch.set_default_dtype(torch.float32)
    model.generation_config.eos_token_id = None
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
        tokenizer=tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )  # fmt: skip
    del folder
    return Backbone(model, processor, name="random llava-1.5-7b", revision="random")


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a call, the device's queue drained before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pretrained", help="a model to load instead of random weights")
    parser.add_argument("--shape", choices=["tiny", "llava-1.5-7b"], default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--prompt-words", type=int, default=60, help="text tokens of a prompt, about")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--caption-tokens", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    args.label = args.pretrained or f"random {args.shape}"
    with tempfile.TemporaryDirectory() as name:
        if args.pretrained or args.shape == "tiny":
            if args.pretrained is None:
                from tiny_models import save_tiny_llava

                args.pretrained = str(save_tiny_llava(Path(name), layers=8, hidden=128, image_size=84))
            backbone = load_backbone(ModelSpec(args.pretrained, device=args.device))
        else:
            backbone = random_7b(Path(name), args.device)
        measured = measure(backbone, args)
    if args.json:
        print(json.dumps(measured, indent=1))
        return
    print(f"{measured['model']} on {measured['hardware']}, torch {torch.__version__}")
    print(
        f"batch {args.batch_size}, {args.samples} samples, {args.new_tokens} answer and {args.caption_tokens} caption tokens"
    )
    for label, value in measured["ms_a_sample"].items():
        print(
            f"  {label:<34} {value:9.1f} ms a sample   {value / measured['ms_a_sample']['none']:5.2f} x none"
        )


def measure(backbone: Backbone, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds a sample of each way, after a warm-up."""
    layers, hidden = len(backbone.layers), backbone.hidden_size
    torch.manual_seed(0)
    direction = SafetyDirection(torch.randn(layers, hidden), backbone.name, backbone.revision, "t", "c", 1, 1)
    settings = GenerationSettings(max_new_tokens=args.new_tokens)
    asked = requests(args.samples, args.prompt_words)
    shiftdc = ShiftDC(caption_max_new_tokens=args.caption_tokens)

    def run(defense: Any, captions: CaptionStore, batch_size: int, count: int) -> float:
        tools = Tools(backbone, captions, lambda *, post_norm_last=False: direction)

        def answer_all() -> None:
            for start in range(0, count, batch_size):
                defense.answer(tools, asked[start : start + batch_size], settings)

        return 1000 * timed(answer_all, backbone.device) / count

    warm = min(args.samples, args.batch_size)
    run(shiftdc, CaptionStore(None), args.batch_size, warm)
    store = CaptionStore(None)
    found = {
        "none": run(NoDefense(), CaptionStore(None), args.batch_size, args.samples),
        "shiftdc, captions made": run(shiftdc, store, args.batch_size, args.samples),
        "shiftdc, captions stored": run(shiftdc, store, args.batch_size, args.samples),
    }
    naive = min(NAIVE_SAMPLES, args.samples)
    found["naive loop, none"] = run(NoDefense(), CaptionStore(None), 1, naive)
    found["naive loop, shiftdc"] = run(shiftdc, CaptionStore(None), 1, naive)
    return {
        "model": backbone.name
        if args.pretrained is None or args.shape != "tiny"
        else Path(args.pretrained).name,
        "hardware": provenance.hardware(backbone.devices),
        "versions": provenance.versions(),
        "settings": {k: v for k, v in vars(args).items() if k != "json"},
        "ms_a_sample": found,
    }


if __name__ == "__main__":
    main()
