"""KDSR's networks against the released implementation's numbers, a slow loop, and the sizes that the paper prints."""

import pytest
import torch

from lightbsr.released import convert_state_dict
from lightbsr_arch import KDSR, KDSRTeacher, build_from_state_dict, network_options
from lightbsr_arch.kdsr_arch import depthwise_grouped, depthwise_per_sample, depthwise_shifted
from lightbsr_compat import InputError

SMALL = dict(num_feat=8, num_block=2, num_resblock=1)


def test_student_reproduces_the_released_numbers(golden, released_state_dict, relative_error):
    name, state_dict = convert_state_dict(released_state_dict("kdsr_student_M_x4"))
    numbers, network = golden("kdsr_student_M_x4"), build_from_state_dict(state_dict)
    with torch.no_grad():
        output = network.forward_with_idr(numbers["lq"])
    assert name == "KDSR"
    assert isinstance(network, KDSR)
    assert relative_error(output.sr, numbers["sr"]) < 1e-5
    assert relative_error(output.idr, numbers["idr"]) < 1e-5


def test_teacher_reproduces_the_released_numbers(golden, released_state_dict, relative_error):
    name, state_dict = convert_state_dict(released_state_dict("kdsr_teacher_M_x4"), setting="iso")
    numbers, network = golden("kdsr_teacher_M_x4"), build_from_state_dict(state_dict)
    with torch.no_grad():
        output = network.forward_with_idr(numbers["lq"], numbers["gt"])
    assert name == "KDSRTeacher"
    assert isinstance(network, KDSRTeacher)
    assert network.setting == "iso"
    assert relative_error(output.sr, numbers["sr"]) < 1e-5
    assert relative_error(output.idr, numbers["idr"]) < 1e-5


def test_an_unknown_released_key_is_named(released_state_dict):
    state_dict = released_state_dict("kdsr_student_M_x4")
    with pytest.raises(InputError, match=r"KDSR has a key.*'G\.surprise'"):
        convert_state_dict({**state_dict, "G.surprise": torch.zeros(1)})


@pytest.mark.parametrize(
    ("network", "sizes", "parameters"),
    [
        (KDSR, {}, 5_795_075),
        (KDSRTeacher, {}, 5_822_723),
        (KDSR, dict(num_feat=128, num_block=28, num_resblock=5), 14_190_979),  # the paper prints 14.19M
    ],
)
def test_parameter_counts(network, sizes, parameters):
    with torch.device("meta"):
        built = network(**sizes)
    assert sum(p.numel() for p in built.parameters()) == parameters


@pytest.mark.parametrize("form", [depthwise_grouped, depthwise_shifted, depthwise_per_sample])
def test_depthwise_is_the_sum_over_nine_neighbours(form):
    x, kernels = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(2, 3, 3, 3, dtype=torch.float64)
    expected = torch.zeros_like(x)
    for b, c, i, j in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                if 0 <= i + di < 4 and 0 <= j + dj < 5:
                    expected[b, c, i, j] += x[b, c, i + di, j + dj] * kernels[b, c, di + 1, dj + 1]
    torch.testing.assert_close(form(x, kernels), expected)


def test_both_depthwise_forms_have_the_same_gradients():
    gradients = []
    for form in (depthwise_grouped, depthwise_shifted):
        torch.manual_seed(0)
        x = torch.randn(2, 4, 6, 7, dtype=torch.float64, requires_grad=True)
        kernels = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
        form(x, kernels).square().sum().backward()
        gradients.append((x.grad, kernels.grad))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_an_exported_graph_has_open_sizes_and_no_convolution_with_weights_of_run_time():
    network = KDSR(**SMALL, upscale=2).eval()
    dim = torch.export.Dim
    sizes = {0: dim("batch", min=1, max=64), 2: dim("height", min=2, max=512), 3: dim("width", min=2, max=512)}
    program = torch.export.export(network, (torch.rand(2, 3, 12, 14),), dynamic_shapes=(sizes,))
    weights = {
        node.args[1].name for node in program.graph.nodes if "conv" in str(node.target) and node.op == "call_function"
    }
    assert weights
    assert weights <= set(program.graph_signature.inputs_to_parameters)
    lq = torch.rand(3, 3, 9, 8)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(lq), network(lq), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (8, 13)])
def test_sizes(upscale, size):
    lq = torch.rand(2, 3, *size)
    gt = torch.rand(2, 3, *(side * upscale for side in size))
    student, teacher = KDSR(**SMALL, upscale=upscale), KDSRTeacher(**SMALL, upscale=upscale)
    with torch.no_grad():
        assert student(lq).shape == teacher(lq, gt).shape == gt.shape
        assert student.estimate_idr(lq).shape == teacher.estimate_idr(lq, gt).shape == (2, 32)


def test_an_image_is_not_touched_by_its_batch():
    network, lq = KDSR(**SMALL).eval(), torch.rand(3, 3, 6, 5)
    with torch.no_grad():
        torch.testing.assert_close(network(lq), torch.cat([network(image[None]) for image in lq]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "network",
    [KDSR(**SMALL, upscale=3), KDSR(num_feat=4, num_block=1, num_resblock=0), KDSRTeacher(**SMALL, setting="iso")],
)
def test_class_and_sizes_are_read_off_the_state_dict(network):
    lq, gt = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 16, 16)
    rebuilt = build_from_state_dict(network.state_dict())
    inputs = (lq, gt) if isinstance(network, KDSRTeacher) else (lq,)
    assert type(rebuilt) is type(network)
    with torch.no_grad():
        assert torch.equal(rebuilt(*inputs), network(*inputs))


def test_a_state_dict_without_a_tail_is_refused():
    state_dict = KDSR(**SMALL).state_dict()
    del state_dict["sr_network.head.weight"]
    with pytest.raises(ValueError, match=r"sr_network\.head"):
        network_options(state_dict)


@pytest.mark.parametrize("option", [dict(num_feat=0), dict(num_block=0), dict(num_resblock=-1), dict(upscale=5)])
def test_impossible_sizes_are_named(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} is {next(iter(option.values()))}"):
        KDSR(**option)


def test_an_hr_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match="must be 8x8"):
        KDSRTeacher(**SMALL, upscale=2)(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 8, 9))
