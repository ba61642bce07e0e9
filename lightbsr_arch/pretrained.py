"""Load and save networks with their weights: ``from_pretrained`` and ``save_pretrained``."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound="Pretrained")

WEIGHTS = "model.safetensors"  # the name that the Hugging Face hub expects, as ``config.json``


class Pretrained(nn.Module):
    """A network whose class and sizes can be read off its state dict."""

    @classmethod
    def from_pretrained(cls: type[Network], name: str | os.PathLike[str], **hub_options: Any) -> Network:
        """Build a network with trained weights, in eval mode.

        Args:
            name: packaged weights such as ``lightbsr_x4_iso`` (where the package ``lightbsr`` is installed), a file
                (.pth or .safetensors), a folder of ``save_pretrained``, or a repository of the Hugging Face hub
                (``owner/name``).
            hub_options: for ``huggingface_hub.hf_hub_download``, such as ``revision``.

        Raises:
            ValueError: the weights are those of another network.
            FileNotFoundError, lightbsr's InputError: there is nothing of that name.
            ImportError: ``huggingface_hub`` is needed and not installed.
        """
        from .state_dicts import build_from_state_dict

        path = _find(os.fspath(name), hub_options)
        network = build_from_state_dict(_read(path))
        if not isinstance(network, cls):
            raise ValueError(f"{path!r} holds weights of {type(network).__name__}, not of {cls.__name__}")
        return network

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``model.safetensors``, and the class and sizes in ``config.json``, into a folder (made if missing)."""
        from safetensors.torch import save_model

        from .state_dicts import network_options

        network_class, options = network_options(self.state_dict())
        sizes = {name: value for name, value in options.items() if not isinstance(value, Tensor)}
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self, str(folder / WEIGHTS), metadata={"format": "pt"})
        config = json.dumps({"architecture": network_class.__name__, **sizes}, indent=2)
        (folder / "config.json").write_text(config + "\n", encoding="utf-8")


def _find(name: str, hub_options: dict[str, Any]) -> str:
    """The path of the weights that ``from_pretrained`` is asked for."""
    if os.path.isdir(name):
        return os.path.join(name, WEIGHTS)
    if os.path.isfile(name):
        return name
    if name.count("/") != 1 or name.endswith((".pth", ".safetensors")):
        if importlib.util.find_spec("lightbsr") is None:
            raise FileNotFoundError(f"no such file of weights: {name!r}")
        from lightbsr.packaged import find_weights

        return find_weights(name)
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise ImportError(f"{name!r} is no file; from the hub it needs: pip install huggingface_hub") from None
    return hf_hub_download(name, WEIGHTS, **hub_options)


def _read(path: str) -> dict[str, Tensor]:
    """The state dict in a file of weights; in a checkpoint of BasicSR the averaged weights (EMA), if it has them."""
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    return checkpoint.get("params_ema") or checkpoint.get("params") or checkpoint
