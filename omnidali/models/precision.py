"""Mixed precision: which dtype the forward pass and the clips have."""

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def make_autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context of a forward pass; with ``fp32`` it does nothing."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


def make_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Loss scaling: only fp16 has so short a range that small gradients would vanish."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
