"""Tiny random checkpoints written in published layouts: same key names and file split, small shapes."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from tiny_models import CORPUS
from torch import Tensor

WIDTH, INNER, LAYERS, HEADS, KEY_VALUE_HEADS = 32, 48, 3, 4, 2
V_WIDTH, V_INNER, V_LAYERS, V_HEADS, SIDE, PATCH = 16, 32, 3, 2, 28, 14
EPS = 1e-5

Weights = dict[str, Tensor]


def rand(*shape: int, scale: float = 0.3) -> Tensor:
    return torch.randn(*shape) * scale


def near_one(width: int) -> Tensor:
    return 1 + rand(width, scale=0.1)


def sentencepiece_model(folder: Path) -> int:
    """Train a byte-fallback BPE like Llama's; return its vocabulary size."""
    text = folder / "corpus.txt"
    text.write_text("\n".join(CORPUS * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    text.unlink()
    (folder / "tokenizer.vocab").unlink()
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "LlamaTokenizer",
                "bos_token": "<s>",
                "eos_token": "</s>",
                "unk_token": "<unk>",
                "add_bos_token": True,
                "add_eos_token": False,
                "model_max_length": 2048,
            }
        )
    )
    return 400


def llama(vocabulary: int) -> Weights:
    """Keys of a Llama checkpoint, with the inverse frequencies that older ones hold."""
    size = WIDTH // HEADS
    weights = {
        "model.embed_tokens.weight": rand(vocabulary, WIDTH),
        "model.norm.weight": near_one(WIDTH),
        "lm_head.weight": rand(vocabulary, WIDTH),
    }
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        weights |= {
            f"{p}self_attn.q_proj.weight": rand(WIDTH, WIDTH),
            f"{p}self_attn.k_proj.weight": rand(KEY_VALUE_HEADS * size, WIDTH),
            f"{p}self_attn.v_proj.weight": rand(KEY_VALUE_HEADS * size, WIDTH),
            f"{p}self_attn.o_proj.weight": rand(WIDTH, WIDTH),
            f"{p}self_attn.rotary_emb.inv_freq": rand(size // 2),
            f"{p}mlp.gate_proj.weight": rand(INNER, WIDTH),
            f"{p}mlp.up_proj.weight": rand(INNER, WIDTH),
            f"{p}mlp.down_proj.weight": rand(WIDTH, INNER),
            f"{p}input_layernorm.weight": near_one(WIDTH),
            f"{p}post_attention_layernorm.weight": near_one(WIDTH),
        }
    return weights


def llama_config(vocabulary: int) -> dict[str, Any]:
    return {
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "rms_norm_eps": EPS,
        "max_position_embeddings": 4096,
        "hidden_act": "silu",
        "vocab_size": vocabulary,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }


def clip_vision() -> Weights:
    """Keys of a CLIP vision tower below `vision_model.`."""
    weights = {
        "embeddings.class_embedding": rand(V_WIDTH),
        "embeddings.position_ids": torch.arange((SIDE // PATCH) ** 2 + 1)[None],
        "embeddings.patch_embedding.weight": rand(V_WIDTH, 3, PATCH, PATCH, scale=0.05),
        "embeddings.position_embedding.weight": rand((SIDE // PATCH) ** 2 + 1, V_WIDTH),
    }
    for name in ("pre_layrnorm", "post_layernorm"):
        weights |= {f"{name}.weight": near_one(V_WIDTH), f"{name}.bias": rand(V_WIDTH)}
    for i in range(V_LAYERS):
        p = f"encoder.layers.{i}."
        for name in ("q", "k", "v", "out"):
            weights |= {
                f"{p}self_attn.{name}_proj.weight": rand(V_WIDTH, V_WIDTH),
                f"{p}self_attn.{name}_proj.bias": rand(V_WIDTH),
            }
        for name in ("layer_norm1", "layer_norm2"):
            weights |= {f"{p}{name}.weight": near_one(V_WIDTH), f"{p}{name}.bias": rand(V_WIDTH)}
        weights |= {
            f"{p}mlp.fc1.weight": rand(V_INNER, V_WIDTH),
            f"{p}mlp.fc1.bias": rand(V_INNER),
            f"{p}mlp.fc2.weight": rand(V_WIDTH, V_INNER),
            f"{p}mlp.fc2.bias": rand(V_WIDTH),
        }
    return weights


def save_split(weights: Weights, folder: Path, parts: int) -> None:
    """Write `pytorch_model-0000x-of-0000n.bin` files with their index."""
    names = list(weights)
    chunk = -(-len(names) // parts)
    index = {}
    for part in range(parts):
        mine = names[part * chunk : (part + 1) * chunk]
        file = f"pytorch_model-{part + 1:05}-of-{parts:05}.bin"
        torch.save({name: weights[name] for name in mine}, folder / file)
        index |= dict.fromkeys(mine, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def sharegpt4v(folder: Path) -> tuple[Path, Weights, Weights]:
    """ShareGPT4V-7B's layout: a Llama with projector in two torch files, and its own CLIP tower beside it."""
    torch.manual_seed(0)
    main, tower = folder / "ShareGPT4V-7B", folder / "ShareGPT4V-7B_vit"
    main.mkdir(parents=True)
    tower.mkdir()
    vocabulary = sentencepiece_model(main)
    weights = llama(vocabulary) | {
        "model.mm_projector.0.weight": rand(WIDTH, V_WIDTH),
        "model.mm_projector.0.bias": rand(WIDTH),
        "model.mm_projector.2.weight": rand(WIDTH, WIDTH),
        "model.mm_projector.2.bias": rand(WIDTH),
    }
    save_split(weights, main, 2)
    config = {
        **llama_config(vocabulary),
        "model_type": "share4v",
        "architectures": ["Share4VLlamaForCausalLM"],
        "mm_vision_tower": str(tower),
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": V_WIDTH,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "pad",
    }
    (main / "config.json").write_text(json.dumps(config))
    vision = clip_vision()
    torch.save({f"vision_model.{name}": value for name, value in vision.items()}, tower / "pytorch_model.bin")
    vision_config = {
        "model_type": "clip_vision_model",
        "architectures": ["CLIPVisionModel"],
        "hidden_size": V_WIDTH,
        "intermediate_size": V_INNER,
        "num_hidden_layers": V_LAYERS,
        "num_attention_heads": V_HEADS,
        "image_size": SIDE,
        "patch_size": PATCH,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "projection_dim": 768,
    }
    (tower / "config.json").write_text(json.dumps(vision_config))
    return main, weights, vision


QUERIES, Q_WIDTH, Q_INNER, Q_LAYERS, Q_HEADS = 5, 24, 32, 3, 2


def blip2_eyes() -> Weights:
    """Keys of BLIP-2's vision tower, query tokens and Q-Former in transformers' layout."""
    weights = {
        "query_tokens": rand(1, QUERIES, Q_WIDTH),
        "vision_model.embeddings.class_embedding": rand(1, 1, V_WIDTH),
        "vision_model.embeddings.position_embedding": rand(1, (SIDE // PATCH) ** 2 + 1, V_WIDTH),
        "vision_model.embeddings.patch_embedding.weight": rand(V_WIDTH, 3, PATCH, PATCH, scale=0.05),
        "vision_model.embeddings.patch_embedding.bias": rand(V_WIDTH),
        "vision_model.post_layernorm.weight": near_one(V_WIDTH),
        "vision_model.post_layernorm.bias": rand(V_WIDTH),
        "qformer.layernorm.weight": near_one(Q_WIDTH),
        "qformer.layernorm.bias": rand(Q_WIDTH),
    }

    def dense(name: str, out: int, into: int) -> None:
        weights[f"{name}.weight"] = rand(out, into)
        weights[f"{name}.bias"] = rand(out)

    def norm(name: str, width: int) -> None:
        weights[f"{name}.weight"] = near_one(width)
        weights[f"{name}.bias"] = rand(width)

    for i in range(V_LAYERS):
        p = f"vision_model.encoder.layers.{i}."
        dense(f"{p}self_attn.qkv", 3 * V_WIDTH, V_WIDTH)
        dense(f"{p}self_attn.projection", V_WIDTH, V_WIDTH)
        dense(f"{p}mlp.fc1", V_INNER, V_WIDTH)
        dense(f"{p}mlp.fc2", V_WIDTH, V_INNER)
        norm(f"{p}layer_norm1", V_WIDTH)
        norm(f"{p}layer_norm2", V_WIDTH)
    for i in range(Q_LAYERS):
        p = f"qformer.encoder.layer.{i}."
        for name, into in (("attention", Q_WIDTH), ("crossattention", V_WIDTH)):
            if name == "crossattention" and i % 2:
                continue
            dense(f"{p}{name}.attention.query", Q_WIDTH, Q_WIDTH)
            dense(f"{p}{name}.attention.key", Q_WIDTH, into)
            dense(f"{p}{name}.attention.value", Q_WIDTH, into)
            dense(f"{p}{name}.output.dense", Q_WIDTH, Q_WIDTH)
            norm(f"{p}{name}.output.LayerNorm", Q_WIDTH)
        dense(f"{p}intermediate_query.dense", Q_INNER, Q_WIDTH)
        dense(f"{p}output_query.dense", Q_WIDTH, Q_INNER)
        norm(f"{p}output_query.LayerNorm", Q_WIDTH)
    return weights


def minigpt4(folder: Path) -> tuple[Path, Path, Path, Weights, Weights, Weights]:
    """MiniGPT-4's three parts: the linear layer's file, Vicuna, BLIP-2; with the weights of each."""
    torch.manual_seed(1)
    vicuna, blip2 = folder / "vicuna-7b-v0", folder / "blip2-flan-t5-xxl"
    vicuna.mkdir(parents=True)
    blip2.mkdir()
    vocabulary = sentencepiece_model(vicuna)
    language = llama(vocabulary)
    save_split(language, vicuna, 2)
    (vicuna / "config.json").write_text(json.dumps({**llama_config(vocabulary), "model_type": "llama"}))
    eyes = blip2_eyes()
    t5 = {"language_model.shared.weight": rand(8, 4), "language_projection.weight": rand(4, Q_WIDTH)}
    save_split({**eyes, **t5}, blip2, 2)
    config = {
        "model_type": "blip-2",
        "num_query_tokens": QUERIES,
        "vision_config": {
            "hidden_size": V_WIDTH,
            "intermediate_size": V_INNER,
            "num_hidden_layers": V_LAYERS,
            "num_attention_heads": V_HEADS,
            "image_size": SIDE,
            "patch_size": PATCH,
        },
        "qformer_config": {
            "hidden_size": Q_WIDTH,
            "intermediate_size": Q_INNER,
            "num_hidden_layers": Q_LAYERS,
            "num_attention_heads": Q_HEADS,
            "encoder_hidden_size": V_WIDTH,
        },
    }
    (blip2 / "config.json").write_text(json.dumps(config))
    linear = {"llama_proj.weight": rand(WIDTH, Q_WIDTH), "llama_proj.bias": rand(WIDTH)}
    torch.save({"model": linear}, folder / "prerained_minigpt4_7b.pth")
    return folder / "prerained_minigpt4_7b.pth", vicuna, blip2, linear, language, eyes


def tiktoken_file(path: Path, merges: int = 60) -> dict[bytes, int]:
    """Train a byte-pair encoding on the corpus and write it as `qwen.tiktoken` is; return token -> rank."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    words = [[bytes([b]) for b in word.encode()] for line in CORPUS for word in re.findall(r" ?\w+|\W", line)]
    # runs of line breaks are single tokens in the published ranks too
    words += [[bytes([b]) for b in run] for run in (b"\n\n", b"\n\n\n", b"\n \n", b"\r\n") for _ in range(30)]
    for _ in range(merges):
        pairs = Counter(pair for word in words for pair in pairwise(word))
        left, right = max(pairs, key=lambda pair: (pairs[pair], pair))
        ranks[left + right] = len(ranks)
        for word in words:
            at = 0
            while at < len(word) - 1:
                if (word[at], word[at + 1]) == (left, right):
                    word[at : at + 2] = [left + right]
                at += 1
    path.write_text("".join(f"{base64.b64encode(t).decode()} {rank}\n" for t, rank in ranks.items()))
    return ranks


P_QUERIES, P_GRID_SIDE = 4, 56
"""Queries of the tiny resampler (a square), and the side of its images: 4 x 4 patches."""


def qwen_vl(folder: Path) -> tuple[Path, Weights, dict[bytes, int]]:
    """Qwen-VL's layout: a Qwen language model with fused weights and a vision side below `transformer.visual`."""
    torch.manual_seed(2)
    folder.mkdir(parents=True)
    ranks = tiktoken_file(folder / "qwen.tiktoken")
    vocabulary = len(ranks) + 217 + 7
    weights: Weights = {
        "transformer.wte.weight": rand(vocabulary, WIDTH),
        "transformer.ln_f.weight": near_one(WIDTH),
        "lm_head.weight": rand(vocabulary, WIDTH),
    }
    for i in range(LAYERS):
        p = f"transformer.h.{i}."
        weights |= {
            f"{p}ln_1.weight": near_one(WIDTH),
            f"{p}attn.c_attn.weight": rand(3 * WIDTH, WIDTH),
            f"{p}attn.c_attn.bias": rand(3 * WIDTH),
            f"{p}attn.c_proj.weight": rand(WIDTH, WIDTH),
            f"{p}attn.rotary_emb.inv_freq": rand(WIDTH // HEADS // 2),
            f"{p}ln_2.weight": near_one(WIDTH),
            f"{p}mlp.w1.weight": rand(INNER, WIDTH),
            f"{p}mlp.w2.weight": rand(INNER, WIDTH),
            f"{p}mlp.c_proj.weight": rand(WIDTH, INNER),
        }
    v = "transformer.visual."
    weights |= {
        f"{v}conv1.weight": rand(V_WIDTH, 3, PATCH, PATCH, scale=0.05),
        f"{v}positional_embedding": rand(256, V_WIDTH),
        f"{v}proj": rand(WIDTH, WIDTH),
        f"{v}attn_pool.pos_embed": rand(P_QUERIES, WIDTH),
        f"{v}attn_pool.query": rand(P_QUERIES, WIDTH),
        f"{v}attn_pool.kv_proj.weight": rand(WIDTH, V_WIDTH),
        f"{v}attn_pool.attn.in_proj_weight": rand(3 * WIDTH, WIDTH),
        f"{v}attn_pool.attn.in_proj_bias": rand(3 * WIDTH),
        f"{v}attn_pool.attn.out_proj.weight": rand(WIDTH, WIDTH),
        f"{v}attn_pool.attn.out_proj.bias": rand(WIDTH),
    }
    norms = [("ln_pre", V_WIDTH), ("ln_post", WIDTH), ("attn_pool.ln_q", WIDTH), ("attn_pool.ln_kv", WIDTH)]
    for i in range(V_LAYERS):
        p = f"transformer.resblocks.{i}."
        norms += [(f"{p}ln_1", V_WIDTH), (f"{p}ln_2", V_WIDTH)]
        for name, out, into in (
            ("attn.in_proj", 3 * V_WIDTH, V_WIDTH),
            ("attn.out_proj", V_WIDTH, V_WIDTH),
            ("mlp.c_fc", V_INNER, V_WIDTH),
            ("mlp.c_proj", V_WIDTH, V_INNER),
        ):
            weights |= {f"{v}{p}{name}.weight": rand(out, into), f"{v}{p}{name}.bias": rand(out)}
    for name, width in norms:
        weights |= {f"{v}{name}.weight": near_one(width), f"{v}{name}.bias": rand(width)}
    save_split(weights, folder, 3)
    config = {
        "model_type": "qwen",
        "architectures": ["QWenLMHeadModel"],
        "hidden_size": WIDTH,
        "intermediate_size": 2 * INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "layer_norm_epsilon": EPS,
        "rotary_emb_base": 10000,
        "vocab_size": vocabulary,
        "seq_length": 2048,
        "torch_dtype": "float32",
        "visual": {
            "heads": V_HEADS,
            "image_size": P_GRID_SIDE,
            "image_start_id": len(ranks) + 214,
            "layers": V_LAYERS,
            "mlp_ratio": V_INNER / V_WIDTH,
            "output_dim": WIDTH,
            "patch_size": PATCH,
            "width": V_WIDTH,
            "n_queries": P_QUERIES,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder, weights, ranks
