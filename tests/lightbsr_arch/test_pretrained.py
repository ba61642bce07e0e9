"""``from_pretrained`` and ``save_pretrained``."""

import json
import sys
import types

import pytest
import torch

from lightbsr_arch import KDSR, LightBSR, LightBSRTeacher
from lightbsr_compat import InputError

SIZES = dict(num_feat=8, num_group=1, num_block=2, num_idr=16, num_channel_idr=6, upscale=2)


def same_weights(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    "network",
    [LightBSR(**SIZES), KDSR(num_feat=4, num_block=1, num_resblock=0), LightBSRTeacher(**SIZES, queue_size=4)],
    ids=lambda network: type(network).__name__,
)
def test_a_saved_network_is_loaded_again(network, tmp_path):
    network.save_pretrained(tmp_path / "folder")
    loaded = type(network).from_pretrained(tmp_path / "folder")
    assert same_weights(loaded, network) and not loaded.training
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["architecture"] == type(network).__name__ and config["upscale"] == network.upscale


def test_packaged_weights_by_name():
    network = LightBSR.from_pretrained("lightbsr_x4_iso")
    assert network.upscale == 4 and not network.training


def test_the_averaged_weights_of_a_checkpoint(tmp_path):
    averaged, last = LightBSR(**SIZES), LightBSR(**SIZES)
    torch.save({"params": last.state_dict(), "params_ema": averaged.state_dict()}, tmp_path / "net.pth")
    assert same_weights(LightBSR.from_pretrained(tmp_path / "net.pth"), averaged)
    torch.save(last.state_dict(), tmp_path / "net.pth")
    assert same_weights(LightBSR.from_pretrained(tmp_path / "net.pth"), last)


def test_a_repository_of_the_hub(tmp_path, monkeypatch):
    network = LightBSR(**SIZES)
    network.save_pretrained(tmp_path)
    hub = types.ModuleType("huggingface_hub")
    hub.hf_hub_download = lambda repo, file, revision: str({("owner/name", "v1"): tmp_path}[repo, revision] / file)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert same_weights(LightBSR.from_pretrained("owner/name", revision="v1"), network)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"'owner/name' is no file.*pip install huggingface_hub"):
        LightBSR.from_pretrained("owner/name")


def test_other_weights_and_unknown_names_are_refused(tmp_path):
    LightBSR(**SIZES).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="weights of LightBSR, not of KDSR"):
        KDSR.from_pretrained(tmp_path)
    for name in ("lightbsr_x4_isu", "weights/absent.pth"):
        with pytest.raises(InputError, match=name):
            LightBSR.from_pretrained(name)
