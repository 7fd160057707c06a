"""Configurations of small networks that several tests build."""

from __future__ import annotations

from typing import Any

UNET: dict[str, Any] = {
    "kind": "unet",
    "in_channels": 3,
    "out_channels": 4,
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "num_head_channels": 8,
    "context_dim": 6,
    "num_groups": 8,
}
