"""ONNX models of the networks: equal to torch at every size and batch, of operators that other runtimes take."""

import logging
import warnings

import pytest
import torch

from lightbsr_arch import IDR, KDSR, LightBSR
from lightbsr_compat import InputError

onnx = pytest.importorskip("onnx", reason="onnx is not installed (the onnx extra)")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (the onnx extra)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (the onnx extra)")

from lightbsr import export  # noqa: E402

# Layer scales of 0.5, so that a fault in a ConvNeXt branch shows.
NETWORKS = {
    "LightBSR": lambda upscale: LightBSR(
        num_feat=16, num_group=2, num_block=2, num_idr=32, num_channel_idr=12, layer_scale_init=0.5, upscale=upscale
    ),
    "KDSR": lambda upscale: KDSR(num_feat=16, num_block=3, num_resblock=1, upscale=upscale),
}
DYNAMIC = {0: "batch", 2: "height", 3: "width"}
SIZES = [(1, 1), (1, 6), (5, 2), (7, 13), (16, 20)]


def run(model: bytes, *inputs: torch.Tensor) -> list[torch.Tensor]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    feed = {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(y) for y in session.run(None, feed)]


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_is_torch_at_every_size_and_batch(name, upscale, relative_error):
    network = NETWORKS[name](upscale).eval()
    model = export.to_onnx(
        network, [torch.rand(2, 3, 9, 10)], input_names=["image"], output_names=["sr"], dynamic={"image": DYNAMIC}
    )
    for h, w in SIZES:
        for batch in (1, 3):
            lq = torch.rand(batch, 3, h, w)
            with torch.no_grad():
                expected = network(lq)
            assert expected.shape == (batch, 3, h * upscale, w * upscale)
            assert relative_error(run(model, lq)[0], expected) <= 1e-4


class Guided(torch.nn.Module):
    """A part of a network with several inputs and outputs."""

    def __init__(self, network: LightBSR) -> None:
        super().__init__()
        self.network = network

    def forward(self, lq, channel, spatial):
        return self.network.sr_network(lq, IDR(channel, spatial)), spatial.mean((2, 3))


def test_a_part_of_several_inputs_and_outputs_keeps_their_names(relative_error):
    network = NETWORKS["LightBSR"](2).eval()
    part = Guided(network)
    names = ["lq", "channel", "spatial"]
    lq = torch.rand(2, 3, 9, 10)
    model = export.to_onnx(
        part,
        [lq, *network.estimate_idr(lq)],
        input_names=names,
        output_names=["sr", "pooled"],
        dynamic={"lq": DYNAMIC, "channel": {0: "batch"}, "spatial": DYNAMIC},
    )
    graph = onnx.load_from_string(model).graph
    assert [i.name for i in graph.input] == names and [o.name for o in graph.output] == ["sr", "pooled"]
    lq = torch.rand(1, 3, 6, 5)
    with torch.no_grad():
        inputs = [lq, *network.estimate_idr(lq)]
        expected = part(*inputs)
    for actual, wanted in zip(run(model, *inputs), expected, strict=True):
        assert relative_error(actual, wanted) <= 1e-4


def test_exporting_is_quiet_and_tells_nothing_of_this_machine(capfd, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = export.to_onnx(
            NETWORKS["KDSR"](2),
            [torch.rand(2, 3, 9, 10)],
            input_names=["x"],
            output_names=["y"],
            dynamic={"x": DYNAMIC},
        )
    loud = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert capfd.readouterr() == ("", "") and not loud
    assert b".py" not in model and b"File" not in model


@pytest.mark.parametrize("opset", [-1, 17, 23, 99])
def test_an_opset_that_the_exporter_would_silently_ignore_is_refused(opset):
    with pytest.raises(InputError, match=f"opset is {opset}, but must be 18 to 22"):
        export.to_onnx(torch.nn.Identity(), [], input_names=[], output_names=[], dynamic={}, opset=opset)


def test_missing_packages_are_named_with_the_extra(monkeypatch):
    monkeypatch.setattr(export, "_PACKAGES", ("onnx", "onnx_of_nobody"))
    with pytest.raises(InputError, match=r"needs onnx_of_nobody: pip install 'lightbsr\[onnx\]'"):
        export.to_onnx(torch.nn.Identity(), [], input_names=[], output_names=[], dynamic={})
