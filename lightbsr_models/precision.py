"""Mixed precision in training: networks in bfloat16 or float16, their outputs, losses and weights in float32."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Autocast:
    """Calls functions under ``torch.autocast`` and hands their results back in float32.

    Args:
        amp: ``bf16``, ``fp16``, or None for float32 throughout.
        device: where the functions compute.
    """

    def __init__(self, amp: str | None, device: torch.device) -> None:
        self.dtype = DTYPES[amp] if amp else None
        self.device_type = device.type

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.dtype is None:
            return function(*args, **kwargs)
        with torch.autocast(self.device_type, self.dtype):
            result = function(*args, **kwargs)
        return _to_float32(result)


def grad_scaler(amp: str | None, device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss, so that float16's gradients do not vanish; without effect but for ``fp16``.

    A step whose gradients overflow is left out, and the scale halved: that is part of the training state.
    """
    return torch.amp.GradScaler(device.type, enabled=amp == "fp16")


def _to_float32(result: Any) -> Any:
    """``result``, a tensor or a (nested) NamedTuple of tensors, in float32."""
    if isinstance(result, tuple):
        return type(result)(*map(_to_float32, result))
    return result.float() if isinstance(result, Tensor) else result
