"""The hardware that holds a model, in words."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence

import torch


def hardware(devices: Sequence[torch.device]) -> str:
    """The processor or the accelerators that hold the model, in words; data-parallel processes counted."""
    cuda = [device for device in devices if device.type == "cuda"]
    if cuda:
        return f"{torch.cuda.get_device_name(cuda[0])} x{len(cuda) * int(os.environ.get('WORLD_SIZE', '1'))}"
    return f"CPU {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
