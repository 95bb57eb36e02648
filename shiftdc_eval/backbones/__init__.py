"""Any supported vision-language model behind one face: chat in, tokens out, decoder layers visible."""

from shiftdc_eval.backbones.chat import Chat, Turn
from shiftdc_eval.backbones.generation import Generated, GenerationSettings
from shiftdc_eval.backbones.interface import Backbone
from shiftdc_eval.backbones.loading import load_backbone
from shiftdc_eval.core.model_spec import ModelSpec

__all__ = ["Backbone", "Chat", "Generated", "GenerationSettings", "ModelSpec", "Turn", "load_backbone"]
