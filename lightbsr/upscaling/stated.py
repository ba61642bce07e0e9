"""What the metadata of weights state about their IDR (``tools/pack_weights.py``): a clean image's, how to read one."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import NamedTuple

import safetensors
import torch
from torch import Tensor

from lightbsr.packaged import find_weights
from lightbsr_compat.errors import InputError


class Probe(NamedTuple):
    """A linear probe: what an IDR says about one property of the degradation.

    Attributes:
        weights, bias: value = weights . IDR + bias.
        error: mean absolute error on photographs that it was not fitted to.
        low, high: range of the values that it was fitted to.
    """

    weights: list[float]
    bias: float
    error: float
    low: float
    high: float


_WORDS = {"sigma": "blur of width {} pixels of the result", "noise": "noise of {} of 255", "jpeg": "JPEG quality {}"}


def _metadata(weights: str | os.PathLike[str]) -> dict[str, str]:
    path = find_weights(weights)
    if not path.endswith(".safetensors"):
        return {}
    with safetensors.safe_open(path, "pt") as file:
        return file.metadata() or {}


@contextlib.contextmanager
def _readable(weights: str | os.PathLike[str], name: str) -> Iterator[None]:
    """Turn what a damaged entry of the metadata raises into one sentence."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{os.fspath(weights)!r}: {name} in its metadata cannot be read: {reason}") from None


def clean_idr(weights: str | os.PathLike[str]) -> Tensor:
    """The IDR of images without degradation, (1, D).

    Raises:
        InputError: the weights do not state it.
    """
    metadata = _metadata(weights)
    if "clean_idr" not in metadata:
        raise InputError(f"strength needs the IDR of clean images, which {os.fspath(weights)!r} does not state")
    with _readable(weights, "clean_idr"):
        return torch.tensor(json.loads(metadata["clean_idr"]), dtype=torch.float).reshape(1, -1)


def in_words(weights: str | os.PathLike[str], idr: Tensor) -> str:
    """What an IDR (1, D) says about its image, with the probes' typical errors; '' where the weights have no probes.

    Raises:
        InputError: probes that cannot be read, or are of an IDR of another length.
    """
    phrases = []
    with _readable(weights, "idr_probes"):
        for name, values in json.loads(_metadata(weights).get("idr_probes", "{}")).items():
            probe = Probe(**values)
            value = float(idr[0].double().cpu() @ torch.tensor(probe.weights, dtype=torch.double)) + probe.bias
            digits = 1 if name == "sigma" else 0
            shown = f"{min(max(value, probe.low), probe.high):.{digits}f} ± {probe.error:.{digits}f}"
            phrases.append(_WORDS[name].format(shown))
    return ", ".join(phrases)
