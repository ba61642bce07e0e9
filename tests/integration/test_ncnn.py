"""pnnx converts our ONNX models into ncnn's as on docs/integration.md; they give PyTorch's images.

ncnn aborts the process at an operator that it does not know, so it has one of its own.
"""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch

from lightbsr_arch import KDSR, LightBSR

for _package in ("onnx", "onnxscript", "pnnx", "ncnn"):
    if importlib.util.find_spec(_package) is None:
        pytest.skip(f"{_package} is not installed (the integration extra)", allow_module_level=True)

from lightbsr.export import to_onnx  # noqa: E402

NETWORKS = {
    "LightBSR": lambda: LightBSR(
        num_feat=16, num_group=2, num_block=1, num_idr=32, num_channel_idr=12, layer_scale_init=0.5, upscale=4
    ),
    "KDSR": lambda: KDSR(num_feat=16, num_block=2, num_resblock=1, upscale=3),
}
SIZES = {"LightBSR": [(64, 64), (4, 4), (8, 36)], "KDSR": [(64, 64), (1, 1), (7, 5), (21, 30)]}
RUN = """
import ncnn, numpy as np
network = ncnn.Net()
network.opt.use_fp16_storage = network.opt.use_fp16_packed = network.opt.use_fp16_arithmetic = False
assert network.load_param("model.ncnn.param") == 0 and network.load_model("model.ncnn.bin") == 0
inputs, outputs = np.load("inputs.npz"), {}
for name in inputs:
    image, extractor = inputs[name], network.create_extractor()
    extractor.input("in0", ncnn.Mat(image))
    status, sr = extractor.extract("out0")
    assert status == 0
    outputs[name] = np.array(sr)
np.savez("outputs.npz", **outputs)
"""


def run(folder, *arguments):
    result = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("name", "opset"), [("LightBSR", 22), ("KDSR", 18)])
def test_ncnn_is_torch(tmp_path, relative_error, name, opset):
    network = NETWORKS[name]().eval()
    dynamic = {"lq": {0: "batch", 2: "height", 3: "width"}}
    names = dict(input_names=["lq"], output_names=["sr"])
    (tmp_path / "model.onnx").write_bytes(
        to_onnx(network, [torch.rand(2, 3, 9, 10)], **names, dynamic=dynamic, opset=opset)
    )
    run(tmp_path, "-c", "from pnnx import pnnx; pnnx()", "model.onnx", "inputshape=[1,3,64,64]", "fp16=0")
    images = {f"{h}x{w}": torch.rand(3, h, w) for h, w in SIZES[name]}
    np.savez(tmp_path / "inputs.npz", **{size: image.numpy() for size, image in images.items()})
    run(tmp_path, "-c", RUN)
    with np.load(tmp_path / "outputs.npz") as outputs:
        for size, image in images.items():
            with torch.no_grad():
                expected = network(image[None])[0]
            assert relative_error(torch.from_numpy(outputs[size]), expected) <= 1e-4
