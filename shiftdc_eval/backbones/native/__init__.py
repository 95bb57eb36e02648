"""Models that transformers does not have: small classes of our own, registered with its auto classes.

A checkpoint for them is made by `shiftdc-eval convert`; its `model_type` starts with `shiftdc_`.
"""

from __future__ import annotations

NATIVE = frozenset({"shiftdc_minigpt4", "shiftdc_qwen_vl"})
"""`model_type` of the models in this package."""


def register() -> None:
    """Make the native models known to transformers' auto classes; may be called again."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText

    from shiftdc_eval.backbones.native.image_processor import SquareImageProcessor
    from shiftdc_eval.backbones.native.minigpt4 import MiniGPT4Config, MiniGPT4ForConditionalGeneration
    from shiftdc_eval.backbones.native.qwen_vl import QwenVLConfig, QwenVLForConditionalGeneration

    for config, model in (
        (MiniGPT4Config, MiniGPT4ForConditionalGeneration),
        (QwenVLConfig, QwenVLForConditionalGeneration),
    ):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForImageTextToText.register(config, model, exist_ok=True)
        images = dict.fromkeys(("torchvision", "pil"), SquareImageProcessor)  # whichever is asked for
        AutoImageProcessor.register(config, image_processor_classes=images, exist_ok=True)
