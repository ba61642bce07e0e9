"""Networks are rebuilt from their state dicts alone, whatever their sizes."""

import pytest
import torch

from lightbsr_arch import LightBSR, LightBSRTeacher, build_from_state_dict, find_state_dict, network_options

ODD = dict(num_feat=12, num_group=3, num_block=2, num_idr=48, num_channel_idr=7)


def randomised(network):
    """Weights and statistics that no constructor gives."""
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 0.5)
    return network.eval()


def same_state(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize(
    "sizes",
    [
        ODD,
        dict(num_feat=4, num_group=1, num_block=11, num_idr=16, num_channel_idr=1),
        dict(ODD, upsampler="pixelshuffledirect"),
    ],
)
def test_student_round_trip(upscale, sizes):
    network = randomised(LightBSR(**sizes, upscale=upscale))
    rebuilt = build_from_state_dict(network.state_dict())
    assert type(rebuilt) is LightBSR and same_state(rebuilt, network)
    assert not rebuilt.training
    lq = torch.rand(1, 3, 5, 6)
    with torch.no_grad():
        assert torch.equal(rebuilt(lq), network(lq))


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_teacher_round_trip_with_setting_and_basis(upscale):
    options = dict(num_prior=18, queue_size=10, kernel_basis=torch.rand(25, 15), setting="aniso_noise")
    network = randomised(LightBSRTeacher(**ODD, **options, upscale=upscale))
    network.queue_ptr[0] = 4
    rebuilt = build_from_state_dict(network.state_dict())
    assert type(rebuilt) is LightBSRTeacher and same_state(rebuilt, network)
    assert rebuilt.setting == "aniso_noise"
    assert rebuilt.kernel_basis.shape == (25, 15)
    lq, prior = torch.rand(1, 3, 5, 6), torch.rand(1, 18)
    with torch.no_grad():
        assert torch.equal(rebuilt(lq, prior), network(lq, prior))


def test_options_are_read_off_the_shapes():
    whole = dict(spatial_modulation=True, channel_modulation=True, idr_correction=True)
    options = dict(ODD, **whole, upscale=3, upsampler="pixelshuffle")
    assert network_options(LightBSR(**options).state_dict()) == (LightBSR, options)
    state_dict = LightBSRTeacher(**options, num_prior=18, queue_size=10, setting="iso").state_dict()
    network, found = network_options(state_dict)
    assert network is LightBSRTeacher and found.pop("kernel_basis").numel() == 0
    assert found == dict(options, num_prior=18, use_prior=True, queue_size=10, setting="iso")


def test_an_unnamed_teacher_stays_unnamed():
    network = LightBSRTeacher(**ODD, queue_size=4)
    assert build_from_state_dict(network.state_dict()).setting == ""


@pytest.mark.parametrize("state_dict", [{}, {"conv_first.weight": torch.zeros(64, 3, 3, 3)}])
def test_strange_state_dicts_are_refused(state_dict):
    with pytest.raises(ValueError, match=r"first key is '(none|conv_first\.weight)'"):
        build_from_state_dict(state_dict)


def test_a_teacher_without_its_queue_is_refused_by_the_missing_key():
    state_dict = LightBSRTeacher(**ODD, queue_size=4).state_dict()
    del state_dict["queue"]
    with pytest.raises(ValueError, match="queue"):
        network_options(state_dict)


def test_loading_is_strict():
    state_dict = LightBSR(**ODD).state_dict()
    state_dict["sr_network.groups.0.conv.extra"] = torch.zeros(1)
    with pytest.raises(ValueError, match="extra"):
        build_from_state_dict(state_dict)


@pytest.mark.parametrize("number", ["1000000000", "1", "01"])
def test_numbers_in_keys_build_nothing(number):
    """A key that claims many groups, or a group of which there are too few tensors."""
    state_dict = LightBSR(**ODD | dict(num_group=1)).state_dict()
    state_dict[f"sr_network.groups.{number}.conv.weight"] = torch.zeros(12, 12, 3, 3)
    with pytest.raises(ValueError, match=r"not consecutive|is missing"):
        network_options(state_dict)


def test_shapes_must_agree():
    state_dict = LightBSR(**ODD).state_dict()
    state_dict["sr_network.head.weight"] = torch.zeros(40_000, 3, 3, 3)  # a network of that width takes terabytes
    with pytest.raises(ValueError, match="but must be"):
        network_options(state_dict)


def test_find_state_dict():
    weights, average = {"module.a": torch.zeros(2)}, {"a": torch.ones(2)}
    for checkpoint in ({"params": weights, "params_ema": average}, {"state_dict": average, "epoch": 3}, average):
        assert find_state_dict(checkpoint) == average
    assert list(find_state_dict({"params": weights})) == ["a"]


@pytest.mark.parametrize(
    "checkpoint",
    [{}, 3, None, {"params": 3}, {1: torch.zeros(1)}, {"a": "b"}, {"a": torch.zeros(1).expand(9)}, {"params": {}}],
)
def test_what_holds_no_state_dict(checkpoint):
    with pytest.raises(ValueError, match=r"no state dict|fewer numbers"):
        find_state_dict(checkpoint)
