"""A prompt that is continued, with a KV cache, by tokens that are chosen elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shiftdc_eval.backbones.encoding import Encoded, prefill_kwargs


class Follower:
    """Runs the same answer tokens after another prompt (contrastive decoding)."""

    def __init__(self, model: Any, encoded: Encoded) -> None:
        self._model = model
        self._prompt = encoded.inputs["input_ids"]
        self._kwargs = prefill_kwargs(model, encoded)
        self._first = True

    @torch.inference_mode()
    def next_logits(self, answered: Tensor) -> Tensor:
        """Logits of the next token, `[batch, vocabulary]`.

        Args:
            answered: all answer tokens so far, `[batch, tokens]`: none at the first call, one more each time.
        """
        ids = torch.cat([self._prompt, answered.to(self._prompt.device)], dim=1)
        inputs = self._model.prepare_inputs_for_generation(
            ids,
            next_sequence_length=None if self._first else 1,
            is_first_iteration=self._first,
            use_cache=True,
            logits_to_keep=1,
            **self._kwargs,
        )
        outputs = self._model(**inputs, return_dict=True)
        self._kwargs = self._model._update_model_kwargs_for_generation(
            outputs, self._kwargs, is_encoder_decoder=False
        )
        self._first = False
        logits: Tensor = outputs.logits[:, -1]
        return logits
