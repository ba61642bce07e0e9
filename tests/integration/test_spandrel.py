"""spandrel loads our networks.

As in spandrel's own test suite, whose helpers are not in its wheel: every constructor argument is recovered from a
state dict, and other state dicts are not detected.
"""

import pytest
import torch

from lightbsr_arch import KDSR, KDSRTeacher, LightBSR, LightBSRTeacher

spandrel = pytest.importorskip("spandrel", reason="spandrel is not installed (the integration extra)")

from lightbsr.spandrel import KDSRArch, LightBSRArch, install  # noqa: E402

LIGHTBSR = dict(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=6, layer_scale_init=0.5)
KDSR_SIZES = dict(num_feat=8, num_block=2, num_resblock=1)
STUDENTS = {"LightBSR": lambda **options: LightBSR(**LIGHTBSR | options), "KDSR": lambda **o: KDSR(**KDSR_SIZES | o)}


@pytest.fixture
def loader():
    registry = spandrel.MAIN_REGISTRY.copy()  # detection among all of spandrel's own, which stay as they are
    install(registry)
    return spandrel.ModelLoader(registry=registry)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("LightBSR", dict(upscale=2)),
        ("LightBSR", dict(upscale=3)),
        ("LightBSR", dict(num_feat=12)),
        ("LightBSR", dict(num_group=3)),
        ("LightBSR", dict(num_block=3)),
        ("LightBSR", dict(num_idr=32)),
        ("LightBSR", dict(num_channel_idr=5)),
        ("LightBSR", dict(spatial_modulation=False)),
        ("LightBSR", dict(channel_modulation=False)),
        ("LightBSR", dict(idr_correction=False)),
        ("KDSR", dict(upscale=3)),
        ("KDSR", dict(num_feat=12)),
        ("KDSR", dict(num_block=5)),
        ("KDSR", dict(num_resblock=3)),
    ],
)
def test_arguments_are_recovered_from_a_state_dict(loader, name, options):
    network = STUDENTS[name](**options).eval()
    state_dict = network.state_dict()
    model = loader.load_from_state_dict({key: value.clone() for key, value in state_dict.items()})
    assert type(model.model) is type(network) and model.architecture.id == name and model.purpose == "SR"
    assert model.scale == network.upscale and (model.input_channels, model.output_channels) == (3, 3)
    loaded = model.model.state_dict()
    assert loaded.keys() == state_dict.keys()
    assert all(torch.equal(loaded[key], value) for key, value in state_dict.items())
    image = torch.rand(1, 3, 6, 5)
    with torch.no_grad():
        assert torch.equal(model(image), network(image).clamp(0, 1))


@pytest.mark.parametrize("name", STUDENTS)
def test_checkpoint_files_load(tmp_path, loader, name):
    network = STUDENTS[name]()
    state_dict = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"params_ema": state_dict}, tmp_path / "net_g_latest.pth")
    assert type(loader.load_from_file(tmp_path / "net_g_latest.pth").model) is type(network)


@pytest.mark.parametrize(
    ("file", "tags"),
    [("lightbsr_student_x4", ["64nf", "8ng", "8nb"]), ("kdsr_student_M_x4", ["64nf", "53nb"])],
)
def test_released_checkpoints_load_and_give_the_released_codes_image(
    loader, released_state_dict, golden, relative_error, file, tags
):
    model = loader.load_from_state_dict(released_state_dict(file))
    assert model.scale == 4 and model.tags == tags
    numbers = golden(file)
    with torch.no_grad():
        assert relative_error(model.model(numbers["lq"]), numbers["sr"]) <= 1e-4


def test_nothing_else_is_detected(loader, released_state_dict):
    teachers = [
        LightBSRTeacher(**LIGHTBSR, queue_size=8).state_dict(),
        KDSRTeacher(**KDSR_SIZES).state_dict(),
        released_state_dict("lightbsr_teacher_x4_eval"),
        released_state_dict("kdsr_teacher_M_x4"),
    ]
    two_keys = ["sr_network.head.weight", "sr_network.blocks.0.to_kernel.0.weight"]
    a_part = {key: KDSR(**KDSR_SIZES).state_dict()[key] for key in two_keys}
    other_shapes = LightBSR(**LIGHTBSR).state_dict() | {"converter.to_channel.0.weight": torch.zeros(6, 32)}
    odd = [{"sr_network.head.weight": "text"}, {"G.compress.0.weight": None, 3: 4}, {"a": {}}]
    assert not any(arch.detect(state_dict) for arch in (LightBSRArch(), KDSRArch()) for state_dict in odd)
    odd = [{}, {"conv.weight": torch.zeros(1)}, a_part, other_shapes, {"sr_network.head.weight": torch.tensor(1.0)}]
    for state_dict in [*teachers, *odd]:
        with pytest.raises(spandrel.UnsupportedModelError):
            loader.load_from_state_dict(state_dict)


def test_install_may_be_called_twice():
    registry = spandrel.ArchRegistry()
    assert [support.architecture.id for support in install(registry)] == ["LightBSR", "KDSR"]
    assert install(registry) == []
    assert [support.architecture.id for support in registry] == ["LightBSR", "KDSR"]
