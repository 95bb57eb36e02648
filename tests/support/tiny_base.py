"""A random Llama of two layers as a GGUF file in the layout of the real base, and a random delta for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import torch
from gguf import GGUFWriter, TokenType
from torch import Tensor

from shiftdc_eval.backbones.bundled import smol_config as build
from shiftdc_eval.core.hashing import file_sha256
from training.smol.training.delta_file import save_delta

HIDDEN, INNER, LAYERS, HEADS, KV_HEADS = 32, 48, 2, 4, 2
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", build.UNUSED_TOKEN)
NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
"""Tensor of a GGUF block -> module of transformers' Llama layer."""


def base_config(tokens: int | None = None) -> Any:
    """Configuration of the tiny Llama; `tokens` in its vocabulary."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=tokens or len(vocabulary()),
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
    )


def vocabulary() -> list[str]:
    """Special tokens, all bytes, and one merged pair."""
    from tokenizers.pre_tokenizers import ByteLevel

    return [*SPECIAL, *sorted(ByteLevel.alphabet()), "he"]


def write_base(
    path: Path, seed: int = 0, tokens: list[str] | None = None, merges: list[str] | None = None
) -> dict[str, Tensor]:
    """Write the GGUF file; gives the weights by their names in transformers' `LlamaForCausalLM`.

    `tokens` and `merges` replace the vocabulary of bytes and one pair.
    """
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    tokens = tokens or vocabulary()
    model = LlamaForCausalLM(base_config(len(tokens)))
    state: dict[str, Tensor] = {n: t.clone() for n, t in model.state_dict().items()}
    for name in state:
        if "norm" in name:
            state[name] += 0.1 * torch.randn(state[name].shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_add_space_prefix(False)
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if t in SPECIAL else TokenType.NORMAL for t in tokens])
    writer.add_token_merges(merges or ["h e"])
    for add, token in (
        (writer.add_bos_token_id, 1),
        (writer.add_eos_token_id, 2),
        (writer.add_unk_token_id, 0),
    ):
        add(token)
    writer.add_pad_token_id(2)
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", state["model.norm.weight"].numpy())
    for layer in range(LAYERS):
        for theirs, ours in NAMES.items():
            tensor = state[f"model.layers.{layer}.{ours}.weight"]
            heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(theirs)
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", _interleaved(tensor, heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return state


def _interleaved(tensor: Tensor, heads: int | None) -> numpy.ndarray:
    # llama.cpp keeps the two halves of a rotary pair side by side
    if heads is not None:
        rows = tensor.shape[0] // heads // 2
        tensor = tensor.view(heads, 2, rows, -1).transpose(1, 2).reshape(tensor.shape)
    return numpy.ascontiguousarray(tensor.numpy())


def random_delta(rank: int = 3, width: int = 64, seed: int = 1) -> dict[str, Tensor]:
    """A low-rank pair for every decoder linear, and a vision tower of one layer with its projector."""
    from transformers import LlavaForConditionalGeneration

    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(
        build.build_config(base_config(), tiny_tokenizer(), width=width, layers=1)
    )
    state = {
        name: tensor.clone()
        for name, tensor in model.state_dict().items()
        if name.startswith(("model.vision_tower.", "model.multi_modal_projector."))
    }
    for name, linear in build.linears(model).items():
        state[f"{name}.lora_a"] = 0.1 * torch.randn(rank, linear.in_features)
        state[f"{name}.lora_b"] = 0.1 * torch.randn(linear.out_features, rank)
    return state


def tiny_tokenizer() -> Any:
    """The tokenizer that reading the GGUF file gives, with the image token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = {token: number for number, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=[("h", "e")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return build.build_tokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer))


def write_delta(path: Path, base: Path, **changes: Tensor) -> dict[str, Tensor]:
    """Write a random delta for a base; gives its state before packing."""
    state = {**random_delta(), **changes}
    metadata = {"base_sha256": file_sha256(base), "rank": "3", "seed": "1", "training_log_sha256": "ab"}
    save_delta(path, state, metadata)
    return state


def merge_in_process(base: Path, delta: Path, cache: str) -> None:
    """Merge under `cache`, in a process forked from another."""
    import os

    from shiftdc_eval.backbones.bundled import smol_merge

    torch.set_num_threads(1)  # the other's threads are not here
    smol_merge._cached.cache_clear()
    os.environ["SHIFTDC_CACHE"] = cache
    smol_merge.cached_folder(delta, base)
