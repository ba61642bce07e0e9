"""ONNX models of the networks: equal to PyTorch at every size and batch, of operators that other runtimes take."""

import functools
import subprocess
import sys

import pytest
import torch

import lightbsr_cli as cli
from lightbsr_arch import KDSR, LightBSR, LightBSRTeacher
from lightbsr_compat import InputError

onnx = pytest.importorskip("onnx", reason="onnx is not installed (the onnx extra)")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (the onnx extra)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (the onnx extra)")

from lightbsr import export  # noqa: E402

DYNAMIC = {0: "batch", 2: "height", 3: "width"}
OPSETS = {2: 22, 3: 18, 4: 18}
# Exporting takes seconds: each network is exported once; scales that differ in the tail only are slow tests.
VARIANTS = [
    pytest.param(name, upscale, marks=[pytest.mark.slow] * (upscale == 3 or (name, upscale) == ("KDSR", 4)))
    for name in ("LightBSR", "KDSR")
    for upscale in (2, 3, 4)
]

# What may come out of the exporter, at any opset. Each stands in the table of operators that TensorRT's ONNX parser
# (onnx-tensorrt, docs/operators.md) supports, and pnnx converts each to ncnn (tests/integration/test_ncnn.py).
# Missing on purpose: If, Loop and Scan, Range, ConstantOfShape, ScatterND, GridSample, Resize, Einsum, custom domains.
OPERATORS = set(
    "Add Cast Concat Conv DepthToSpace Div Erf Gather Gelu Gemm LayerNormalization LeakyRelu MatMul Mul Pad ReduceMean"
    " Reshape Shape Sigmoid Slice Split Transpose Unsqueeze".split()
)


def make_network(name: str, upscale: int) -> torch.nn.Module:
    """A small network of two groups or blocks; layer scales of 0.5, so that a fault in a ConvNeXt branch shows."""
    torch.manual_seed(0)
    if name == "KDSR":
        return KDSR(num_feat=8, num_block=2, num_resblock=1, upscale=upscale).eval()
    sizes = dict(num_feat=8, num_group=2, num_block=1, num_idr=16, num_channel_idr=6, layer_scale_init=0.5)
    network = LightBSR(**sizes, upscale=upscale)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # fresh statistics would hide a BatchNorm that was left out
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


@functools.cache
def exported(name: str, upscale: int) -> bytes:
    lq = torch.rand(2, 3, 9, 10)
    options = dict(input_names=["lq"], output_names=["sr"], dynamic={"lq": DYNAMIC}, opset=OPSETS[upscale])
    # As training leaves it: with BatchNorm that would take the statistics of the batch.
    return export.to_onnx(make_network(name, upscale).train(), [lq], **options)


def run(model: bytes, *inputs: torch.Tensor) -> list[torch.Tensor]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    feed = {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(y) for y in session.run(None, feed)]


# --- the model ---


@pytest.mark.parametrize(("name", "upscale"), VARIANTS)
def test_onnx_is_torch_at_every_size_and_batch(name, upscale, relative_error):
    network, model = make_network(name, upscale), exported(name, upscale)
    for h, w in [(1, 1), (1, 6), (5, 2), (7, 13), (16, 20)]:
        for batch in (1, 3):
            lq = torch.rand(batch, 3, h, w)
            with torch.no_grad():
                expected = network(lq)
            assert expected.shape == (batch, 3, h * upscale, w * upscale)
            assert relative_error(run(model, lq)[0], expected) <= 1e-4


@pytest.mark.parametrize(("name", "upscale"), VARIANTS)
def test_only_operators_that_tensorrt_and_ncnn_take(name, upscale):
    model = onnx.load_from_string(exported(name, upscale))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSETS[upscale])]
    assert not model.functions
    assert {node.op_type for node in model.graph.node} <= OPERATORS
    sizes = [
        [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*model.graph.input, *model.graph.output)
    ]
    assert sizes == [["batch", 3, "height", "width"], ["batch", 3, f"{upscale}*height", f"{upscale}*width"]]


def test_unsupported_exports_are_refused(monkeypatch):
    nothing = dict(input_names=[], output_names=[], dynamic={})
    for opset in (17, 23):
        with pytest.raises(InputError, match=f"opset is {opset}, but must be 18 to 22"):
            export.to_onnx(torch.nn.Identity(), [], **nothing, opset=opset)
    monkeypatch.setattr(export, "_PACKAGES", ("onnx", "onnx_of_nobody"))
    with pytest.raises(InputError, match=r"needs onnx_of_nobody: pip install 'lightbsr\[onnx\]'"):
        export.to_onnx(torch.nn.Identity(), [], **nothing)


# --- the command ---


@pytest.fixture
def weights(tmp_path):
    """``weights(name)``: a checkpoint of the small x2 network."""

    def save(name: str = "LightBSR") -> str:
        path = tmp_path / f"{name}.pth"
        torch.save({"params": make_network(name, 2).state_dict()}, path)
        return str(path)

    return save


@pytest.fixture
def ready_made(monkeypatch):
    """Give ``export_file`` the model that belongs to the weights of ``weights('LightBSR')``, exported before."""
    monkeypatch.setattr(export, "to_onnx", lambda *args, **options: exported("LightBSR", 2))


def test_the_command_is_quiet_and_the_file_describes_itself(tmp_path, weights, relative_error):
    target = tmp_path / "new" / "lightbsr_x2.onnx"
    arguments = ["export", "--weights", weights(), "--onnx", str(target)]
    result = subprocess.run([sys.executable, "-m", "lightbsr", *arguments], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"LightBSR, x2, fp32, opset 18, any size: written to {target}; it differs from")
    assert [path.name for path in target.parent.iterdir()] == ["lightbsr_x2.onnx"]
    model = target.read_bytes()
    notes = {note.key: note.value for note in onnx.load_from_string(model).metadata_props}
    assert notes.pop("lightbsr")
    assert notes == {"network": "LightBSR", "scale": "2", "precision": "fp32", "weights": "LightBSR.pth"}
    # The exporter's own metadata holds paths of the machine.
    assert b".py" not in model and str(tmp_path).encode() not in model
    lq = torch.rand(2, 3, 11, 4)
    with torch.no_grad():
        assert relative_error(run(model, lq)[0], make_network("LightBSR", 2)(lq)) <= 1e-4


@pytest.mark.parametrize("name", ["LightBSR", pytest.param("KDSR", marks=pytest.mark.slow)])
def test_fp16_at_a_fixed_size_has_float32_images(tmp_path, weights, capsys, relative_error, name):
    target = tmp_path / "half.onnx"
    target.write_text("an older model")
    arguments = ["export", "--weights", weights(name), "--onnx", str(target), "--precision", "fp16", "--opset", "20"]
    assert cli.main([*arguments, "--size", "12", "17"]) == 0
    assert f"{name}, x2, fp16, opset 20, batch 1, 12x17: written" in capsys.readouterr().out
    graph = onnx.load(target).graph
    assert {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.input, *graph.output)]
    assert shapes == [[1, 3, 12, 17], [1, 3, 24, 34]]
    kinds = {array.data_type for array in graph.initializer if len(array.dims) > 1}
    assert kinds == {onnx.TensorProto.FLOAT16}
    assert {node.op_type for node in graph.node} <= OPERATORS - {"Shape"}
    lq = torch.rand(1, 3, 12, 17)
    with torch.no_grad():
        assert 0 < relative_error(run(target.read_bytes(), lq)[0], make_network(name, 2)(lq)) <= 4 * 2**-11


def test_a_model_that_differs_from_pytorch_is_not_written(tmp_path, weights, ready_made, monkeypatch, capsys):
    target, path = tmp_path / "model.onnx", weights()
    target.write_text("an older model")
    state_dict = torch.load(path)["params"]
    state_dict["sr_network.tail.conv.bias"] += 3e-4
    torch.save({"params": state_dict}, path)
    arguments = ["export", "--weights", path, "--onnx", str(target)]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert "by 0.0003 of white (batch 1, 1x1), but 0.0001 is allowed: nothing was written\n" in error
    monkeypatch.setattr(export, "to_onnx", lambda *args, **options: exported("LightBSR", 4))  # another scale
    assert cli.main([*arguments, "--precision", "fp16"]) == 2
    assert "by inf of white (batch 1, 1x1)" in capsys.readouterr().err
    monkeypatch.setattr(export, "differences", lambda *args, **options: iter([("batch 1, 1x1", float("nan"))]))
    assert cli.main([*arguments, "--precision", "fp16"]) == 2
    assert "by nan of white (batch 1, 1x1), but 0.01 is allowed: nothing was written; export it as fp32\n" in (
        capsys.readouterr().err
    )
    assert target.read_text() == "an older model"


def test_weights_that_cannot_be_exported_are_named(tmp_path, capsys):
    teacher = LightBSRTeacher(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=6, queue_size=8)
    torch.save({"params": teacher.state_dict()}, tmp_path / "teacher.pth")
    for file, message in (("gone.pth", "no such checkpoint file"), ("teacher.pth", "holds a teacher")):
        arguments = ["export", "--weights", str(tmp_path / file), "--onnx", str(tmp_path / "out" / "model.onnx")]
        assert cli.main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and file in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("model.pth", "must end in .onnx"),
        ("folder.onnx", "cannot be written: Is a directory"),
        ("LightBSR.pth/model.onnx", "cannot be written"),
    ],
)
def test_targets_that_cannot_be_written_are_named(tmp_path, weights, ready_made, capsys, target, message):
    (tmp_path / "folder.onnx").mkdir()
    target = str(tmp_path / target)
    assert cli.main(["export", "--weights", weights(), "--onnx", target]) == 2
    error = capsys.readouterr().err
    assert message in error and repr(target) in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LightBSR.pth", "folder.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("file", ["lightbsr_student_x4", "kdsr_student_M_x4"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_papers_networks_as_onnx_give_the_released_codes_image(
    tmp_path, released_state_dict, golden, relative_error, file, precision
):
    torch.save(released_state_dict(file), tmp_path / "released.pth")
    target = tmp_path / "model.onnx"
    export.export_file(str(tmp_path / "released.pth"), str(target), precision=precision)
    numbers = golden(file)
    sr = run(target.read_bytes(), numbers["lq"])[0]
    assert relative_error(sr, numbers["sr"]) <= export.TOLERANCES[precision]
