"""A plain, independent account of ShiftDC: one sample at a time, no batching, no package code.

Written from the paper's equations and METHOD's description of the authors' published procedure, so that the
package is compared with something that shares nothing with it but the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor


@dataclass
class Plain:
    """A loaded model and processor, used one sample at a time."""

    model: Any
    processor: Any

    def inputs(self, text: str, image: Image.Image | None) -> dict[str, Tensor]:
        content: list[dict[str, Any]] = [{"type": "image", "image": image}] if image is not None else []
        content.append({"type": "text", "text": text})
        return dict(
            self.processor.apply_chat_template(
                [{"role": "user", "content": content}],
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                add_generation_prompt=True,
            )
        )

    @property
    def blocks(self) -> list[Any]:
        return list(self.model.model.language_model.layers)

    def last_activations(self, inputs: dict[str, Tensor]) -> Tensor:
        """[layers, hidden] at the last token, taken at the decoder layers' outputs."""
        rows: list[Tensor] = []
        handles = [
            block.register_forward_hook(
                lambda _m, _i, out: rows.append((out if torch.is_tensor(out) else out[0])[0, -1].clone())
            )
            for block in self.blocks
        ]
        with torch.no_grad():
            self.model(**inputs, use_cache=False)
        for handle in handles:
            handle.remove()
        return torch.stack(rows)

    def greedy(self, inputs: dict[str, Tensor], steps: int, hook: Any = None) -> list[int]:
        """Token ids by repeated full forward passes, no KV cache; `hook(layer, row)` edits the prompt's last token."""
        length = inputs["input_ids"].shape[1]
        forbidden = self.model.config.image_token_id
        ids: list[int] = []
        current = dict(inputs)
        for _ in range(steps):
            handles = []
            if hook is not None:
                for index, block in enumerate(self.blocks):

                    def run(_m: Any, _i: Any, out: Any, index: int = index) -> Any:
                        hidden = (out if torch.is_tensor(out) else out[0]).clone()
                        hidden[0, length - 1] = hook(index, hidden[0, length - 1])
                        return hidden if torch.is_tensor(out) else (hidden, *out[1:])

                    handles.append(block.register_forward_hook(run))
            with torch.no_grad():
                logits = self.model(**current, use_cache=False).logits[0, -1]
            for handle in handles:
                handle.remove()
            logits[forbidden] = -torch.inf
            token = int(logits.argmax())
            ids.append(token)
            if token == self.model.generation_config.eos_token_id:
                break
            current["input_ids"] = torch.cat([current["input_ids"], torch.tensor([[token]])], dim=1)
            current["attention_mask"] = torch.ones_like(current["input_ids"])
        return ids

    def caption(self, query: str, image: Image.Image, steps: int) -> str:
        asked = f"Based on the given Request, describe the image. Request: {query}"
        ids = self.greedy(self.inputs(asked, image), steps)
        return str(self.processor.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def shiftdc(
        self,
        variant: str,
        query: str,
        image: Image.Image,
        direction: Tensor,
        layers: list[int],
        *,
        alpha: float,
        caption_steps: int,
        steps: int,
        sign: float = 1.0,
    ) -> list[int]:
        """Answer ids under ShiftDC. `sign` -1 is the deliberate mistake that the comparison must notice."""
        caption = self.caption(query, image, caption_steps)
        text_only = self.last_activations(self.inputs(f"{query} Image Caption: {caption}", None))
        shown = self.inputs(query, image)
        measured = self.last_activations(shown)

        def hook(layer: int, row: Tensor) -> Tensor:
            if layer not in layers:
                return row
            s = direction[layer]
            shift = (row if variant == "online" else measured[layer]) - text_only[layer]
            return row - sign * alpha * (torch.dot(shift, s) / torch.dot(s, s)) * s

        return self.greedy(shown, steps, hook)
