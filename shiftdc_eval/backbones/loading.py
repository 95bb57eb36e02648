"""Loading a backbone from a hub id, a folder, or a model that this package brings along."""

from __future__ import annotations

import logging
from collections.abc import Set
from pathlib import Path
from typing import Any, cast

from transformers import AutoConfig, PreTrainedConfig

from shiftdc_eval.backbones.bundled.registry import BUNDLED, MERGED_ON_USE
from shiftdc_eval.backbones.families import ABSENT_WEIGHTS, UNUSED_WEIGHTS
from shiftdc_eval.backbones.interface import EVERYTHING, IN_VLLM, Backbone, Capability
from shiftdc_eval.backbones.native import NATIVE, register
from shiftdc_eval.backbones.parts import Parts, cannot_load, load_parts
from shiftdc_eval.backbones.revision import folder_revision
from shiftdc_eval.backbones.server.backbone import ServerBackbone
from shiftdc_eval.backbones.transformers_backbone import TransformersBackbone
from shiftdc_eval.backbones.vllm.choice import declined, refusal
from shiftdc_eval.backbones.vllm.start import start
from shiftdc_eval.core.errors import ConfigError, ModelError, ShiftDCError
from shiftdc_eval.core.model_spec import ModelArguments
from shiftdc_eval.core.weights import load_whole

logger = logging.getLogger(__name__)


def load_backbone(spec: ModelArguments, needs: Set[Capability] = EVERYTHING) -> Backbone:
    """Load a model and its processor with the engine that is asked for.

    Args:
        spec: the model. `engine=auto` takes vLLM where it is installed, on a GPU, for a family that was checked.
        needs: what will be asked of the backbone; `auto` goes by it.

    Raises:
        ConfigError: an unknown dtype, device or device map, or an engine that cannot run this model.
        ModelError: no such model, or one that is not supported; the message names what is missing.
    """
    if spec.engine == "server":
        return cast(Backbone, ServerBackbone(spec))
    if spec.engine == "vllm":
        parts = load_parts(spec)
        if reason := refusal(parts, spec):
            raise ConfigError(f"engine=vllm cannot run {spec.pretrained}: {reason}")
        return start(parts, spec)
    parts = load_parts(spec)
    if spec.engine == "auto" and parts.device.startswith("cuda"):
        reason = declined(parts, spec, needs - IN_VLLM)
        if reason is None:
            try:
                return start(parts, spec)
            except ModelError as error:
                reason = str(error)
        if reason:
            logger.warning("%s: engine=auto goes on with transformers: %s", spec.pretrained, reason)
    return load_transformers(spec, parts)


def load_transformers(spec: ModelArguments, parts: Parts | None = None) -> TransformersBackbone:
    """Load a model and its processor with transformers.

    Raises:
        ConfigError: an unknown dtype, device or device map.
        ModelError: no such model, or one that is not supported; the message names what is missing.
    """
    parts = parts or load_parts(spec)
    try:
        model = load_whole(
            parts.loader,
            parts.source,
            absent=ABSENT_WEIGHTS.get(parts.config.model_type, ()),
            unused=UNUSED_WEIGHTS.get(parts.config.model_type, ()),
            dtype=parts.dtype,
            device_map=spec.device_map or parts.device,
            attn_implementation=spec.attn_implementation,
            revision=spec.revision,
            trust_remote_code=spec.trust_remote_code,
        )
    except ShiftDCError:
        raise
    except Exception as error:  # a damaged folder makes transformers raise nearly anything
        raise ModelError(cannot_load(spec, error)) from error
    return backbone_of(model, parts, spec)


def backbone_of(model: Any, parts: Parts, spec: ModelArguments) -> TransformersBackbone:
    """The backbone of a model and the parts it was made from."""
    return TransformersBackbone(
        model,
        parts.processor,
        name=spec.pretrained,
        revision=parts.revision,
        note=parts.note,
        folder=parts.source if Path(parts.source).is_dir() else None,
    )


def revision_on_disk(pretrained: str) -> str | None:
    """Revision of a local or bundled model's files as they stand now; None for hub ids and what is not there."""
    try:
        folder = BUNDLED[pretrained]()[0] if pretrained in BUNDLED else Path(pretrained)
        return folder_revision(folder) if folder.is_dir() else None
    except (ShiftDCError, OSError):
        return None


def shape_on_disk(spec: ModelArguments) -> tuple[int, int] | None:
    """Decoder layers and hidden size of a model whose configuration is on this machine; None where it is not."""
    try:
        if spec.engine == "server" or spec.pretrained in MERGED_ON_USE:
            return None
        source = BUNDLED[spec.pretrained]()[0] if spec.pretrained in BUNDLED else spec.pretrained
        config, _ = PreTrainedConfig.get_config_dict(source, revision=spec.revision, local_files_only=True)
        if config.get("model_type") in NATIVE:
            register()
        found = AutoConfig.from_pretrained(
            source, revision=spec.revision, local_files_only=True
        ).get_text_config()
        return int(found.num_hidden_layers), int(found.hidden_size)
    except (ShiftDCError, OSError, ValueError, KeyError, TypeError, AttributeError, ImportError):
        return None
