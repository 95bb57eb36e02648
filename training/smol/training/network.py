"""The model as it is trained: new tower and projector, and the base with a low-rank difference on every matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from shiftdc_eval.backbones.bundled.smol_config import GREY, IMAGE_TOKEN, build_config, linears
from shiftdc_eval.core.errors import ModelError
from training.smol.corpus.drawing import CLASSES, SLOTS
from training.smol.training.lowrank import NAMES, TOWER_NAMES, LowRank, block, tower_block
from training.smol.training.recipe import Recipe

PREFIX = "model.language_model.layers"


class Network:
    """Parts and their forward passes.

    Args:
        base: the base's language model, 32 bit.
        tokenizer: from `build_tokenizer`.
        recipe: rank, and the tower's size.
        seed: of what is drawn.
        device: where it shall be.
        compiled: `decoder`, `all` (the tower too), or nothing: which layers are compiled.
    """

    def __init__(
        self, base: Any, tokenizer: Any, recipe: Recipe, seed: int, device: str, compiled: str = ""
    ) -> None:
        from transformers import LlavaForConditionalGeneration

        self.device, self.on_gpu = device, device.startswith("cuda")
        self.dtype = torch.bfloat16 if self.on_gpu else torch.float32
        torch.manual_seed(seed)
        config = build_config(base.config, tokenizer, width=recipe.width, layers=recipe.layers)
        self.model: Any = LlavaForConditionalGeneration(config).float()
        self.model.model.language_model.load_state_dict(base.model.state_dict())
        self.model.to(device).train()
        self.model.requires_grad_(False)
        draws = torch.Generator().manual_seed(seed)
        self.low = {n: LowRank(m.weight, recipe.rank, draws) for n, m in linears(self.model).items()}
        self.character_head = torch.nn.Linear(recipe.width, SLOTS * CLASSES).to(device)
        self.temperature = torch.nn.Parameter(torch.tensor(0.0, device=device))
        self.image_token = int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
        embeddings = self.model.get_input_embeddings().weight.detach()
        self.table = embeddings.to(self.dtype)
        self.scale = embeddings.square().mean()
        """Mean square of an embedding's entries."""
        self.block, self.tower_block = block, tower_block
        if compiled:  # one program for each kind of rows
            torch._dynamo.config.recompile_limit = 64
            self.block = torch.compile(block, dynamic=False)
        if compiled == "all":
            self.tower_block = torch.compile(tower_block, dynamic=False)

    @contextmanager
    def uncompiled(self) -> Iterator[None]:
        """For passes that are too few to compile for."""
        kept = self.block, self.tower_block
        self.block, self.tower_block = block, tower_block
        try:
            yield
        finally:
            self.block, self.tower_block = kept

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def patches(self, pixels: Tensor) -> Tensor:
        """Last hidden state of the tower's patches, `[batch, I * 256, width]`, 32 bit.

        `pixels` are grey, uint8, `[batch, I, 256, 256]`.
        """
        tower = self.model.model.vision_tower
        tower = getattr(tower, "vision_model", tower)
        config, embeddings = tower.config, tower.embeddings
        kernel = embeddings.patch_embedding.weight
        shown = pixels.flatten(0, 1).to(self.dtype).div(127.5).sub(1.0).unsqueeze(1).expand(-1, 3, -1, -1)
        seen = functional.conv2d(shown, kernel.to(self.dtype), stride=kernel.shape[-1])
        first = embeddings.class_embedding.expand(len(shown), 1, -1)
        x = torch.cat((first, seen.flatten(2).transpose(1, 2).float()), dim=1)
        x = x + embeddings.position_embedding.weight
        norm = tower.pre_layrnorm
        x = functional.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        for layer in tower.encoder.layers:
            parts = [layer.get_submodule(name) for name in TOWER_NAMES]
            w, b = [p.weight for p in parts], [p.bias for p in parts]
            x = self.tower_block(x, w, b, config.num_attention_heads, config.layer_norm_eps, self.dtype)
        return x[:, 1:].reshape(len(pixels), -1, x.shape[-1])

    def projected(self, patches: Tensor) -> Tensor:
        """Patches as the language model sees them, `[batch, I * 256, hidden]`."""
        out: Tensor = self.model.model.multi_modal_projector(patches)
        return out

    def weights(self) -> list[list[Tensor]]:
        """The decoder's matrices with their differences, a list a layer."""
        layers = len(self.model.model.language_model.layers)
        return [[self.low[f"{PREFIX}.{i}.{name}"].full(self.dtype) for name in NAMES] for i in range(layers)]

    def hidden(self, embedded: Tensor, weights: list[list[Tensor]]) -> Tensor:
        """The language model's last hidden state, `[batch, length, hidden]`; padding is on the right."""
        language = self.model.model.language_model
        text = language.config
        positions = torch.arange(embedded.shape[1], device=embedded.device).unsqueeze(0)
        cos, sin = (t[0].to(self.dtype) for t in language.rotary_emb(embedded, positions))
        x = embedded.to(self.dtype)
        sizes = text.num_attention_heads, text.num_key_value_heads, text.rms_norm_eps
        for layer, matrices in zip(language.layers, weights, strict=True):
            norms = [n.weight.to(self.dtype) for n in (layer.input_layernorm, layer.post_attention_layernorm)]
            x = self.block(x, cos, sin, norms, matrices, *sizes)
        out: Tensor = language.norm(x)
        return out

    def answer_logits(
        self, rows: Mapping[str, Tensor], weights: list[list[Tensor]], seen: Tensor | None
    ) -> Tensor:
        """Logits at the answer positions, `[batch, A, vocabulary]`; `seen` stands at the image tokens, in order."""
        embedded = functional.embedding(rows["ids"], self.table)
        positions = rows["positions"].long()
        if seen is not None:
            image = rows["ids"] == self.image_token
            order = (image.cumsum(1) - 1).clamp_min(0).unsqueeze(-1).expand(-1, -1, seen.shape[-1])
            embedded = torch.where(image.unsqueeze(-1), seen.to(self.dtype).gather(1, order), embedded)
        hidden = self.hidden(embedded, weights)
        chosen = hidden.gather(1, positions.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        return functional.linear(chosen, self.table)

    @property
    def tower_parameters(self) -> list[torch.nn.Parameter]:
        """Those of the tower and of what reads it in training."""
        heads = [*self.character_head.parameters(), self.temperature]
        return [*self.model.model.vision_tower.parameters(), *heads]

    @property
    def projector_parameters(self) -> list[torch.nn.Parameter]:
        """Those of the projector."""
        return list(self.model.model.multi_modal_projector.parameters())

    @property
    def language_parameters(self) -> list[torch.nn.Parameter]:
        """The low-rank matrices."""
        return [p for low in self.low.values() for p in low.parameters()]

    def difference(self) -> dict[str, Tensor]:
        """The difference to the base: tower, projector and low-rank matrices, in 32 bit on the CPU.

        The tower sees grey pixels three times; the file's first layer weighs red, green and blue by lightness.
        """
        kept = {n: t for n, t in self.model.state_dict().items() if _is_new(n) and t.is_floating_point()}
        found = {n: t.detach().float().cpu() for n, t in kept.items()}
        for name in found:
            if name.endswith("patch_embedding.weight"):
                grey = found[name].sum(1, keepdim=True)
                found[name] = grey * torch.tensor(GREY).view(1, 3, 1, 1)
        for name, low in self.low.items():
            found[f"{name}.lora_a"] = low.a.detach().float().cpu()
            found[f"{name}.lora_b"] = low.b.detach().float().cpu()
        return found

    def heads(self) -> dict[str, Tensor]:
        """What is learned besides and not shipped."""
        found = {f"character_head.{k}": v for k, v in self.character_head.state_dict().items()}
        return {k: v.detach().float().cpu() for k, v in (found | {"temperature": self.temperature}).items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes on what `difference` gave, and what `heads` gave where it is there.

        Raises:
            ModelError: a tensor is missing, has another shape, or is unknown here.
        """
        own = {_plain(n): t for n, t in self.model.state_dict().items() if _is_new(n)}
        for name, low in self.low.items():
            own |= {f"{name}.lora_a": low.a, f"{name}.lora_b": low.b}
        heads = {f"character_head.{k}": v for k, v in self.character_head.state_dict().items()}
        heads["temperature"] = self.temperature
        given = {_plain(n): t for n, t in state.items()}
        wanted = {n for n, t in own.items() if t.is_floating_point()}
        if odd := (wanted - given.keys()) | (given.keys() - own.keys() - heads.keys()):
            raise ModelError(
                f"the weights to go on from do not fit the recipe: {min(odd)} is on one side alone"
            )
        for name, value in given.items():
            mine = (own | heads)[name]
            if mine.numel() != value.numel():
                raise ModelError(
                    f"the weights to go on from do not fit the recipe: {name} is {list(value.shape)} there, "
                    f"{list(mine.shape)} here; --set rank, width and layers as they were"
                )
            value = value.reshape(mine.shape).float()
            if name.endswith("patch_embedding.weight"):
                value = value.sum(1, keepdim=True).expand_as(mine) / 3
            mine.copy_(value)


def _is_new(name: str) -> bool:
    return ".vision_tower." in name or ".multi_modal_projector." in name


def _plain(name: str) -> str:
    # one version of transformers has the tower's parts under `vision_model`, another has not
    return name.replace(".vision_model.", ".")
