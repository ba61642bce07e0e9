"""Training steps on a pretended GPU: no tensor on another device, no operation that depends on a tensor's values.

PyTorch's ``FakeTensorMode`` runs operators on tensors that have a device and a shape, but no values, with or without a
GPU in the machine. It raises where CPU and GPU tensors meet, and where a value is asked for (``item()``, ``int``,
``bool``, boolean masks): on a GPU the CPU would wait there. Autograd needs a real GPU for tensors on one, so backward
passes are rehearsed with pretended tensors on the CPU.

Left out: BasicSR's DiffJPEG, which reads every quality on the CPU, and with it ``SecondOrderDegradation`` as a whole,
whose draws decide on the CPU what is done; BasicSR's PerceptualLoss, whose weights would be downloaded.
"""

import contextlib

import pytest
import torch
from basicsr.archs.discriminator_arch import UNetDiscriminatorSN
from basicsr.losses.basic_loss import L1Loss, MSELoss
from basicsr.losses.gan_loss import GANLoss
from torch._subclasses.fake_tensor import FakeTensorMode

from lightbsr_arch import KDSR, KDSRTeacher, LightBSR, LightBSRTeacher
from lightbsr_data import bicubic_downsample, blur, build_degrader, degradation_prior, get_setting
from lightbsr_data.priors import classic_as_second_order, second_order_prior
from lightbsr_data.second_order import gaussian_noise, poisson_noise
from lightbsr_models import ContrastiveLoss, KLDistillationLoss
from lightbsr_models.losses import PriorLoss

BATCH, VIEWS, SIDE, SCALE = 2, 3, 16, 4
SIZES = dict(num_feat=16, num_group=2, num_block=1, num_idr=32, num_channel_idr=6)
KDSR_SIZES = dict(num_feat=8, num_block=2, num_resblock=1)


@contextlib.contextmanager
def without_values():
    """Tensors are pretended within the block; networks are built before it and moved to their device in it."""
    bicubic_downsample(torch.rand(1, 3, 8, 8), SCALE)  # it keeps its weights: other tests need real ones
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def cuda_can_be_pretended() -> bool:
    """Older versions of PyTorch ask the driver where a pretended tensor is moved or indexed."""
    try:
        with FakeTensorMode():
            torch.zeros(1).to("cuda")[:, None]
    except RuntimeError:
        return False
    return True


needs_cuda = pytest.mark.skipif(not cuda_can_be_pretended(), reason="this PyTorch cannot pretend a GPU")


@pytest.fixture(params=[pytest.param("cuda", marks=needs_cuda), "cpu"])
def device(request):
    return request.param


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=str)
def dtype(request):
    """The precision of convolutions and matrix products."""
    return request.param


@contextlib.contextmanager
def autocast(device, dtype):
    """``torch.autocast``, which would switch itself off where there is no GPU."""
    torch.set_autocast_dtype(device, dtype)
    torch.set_autocast_enabled(device, dtype != torch.float32)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, False)
        torch.clear_autocast_cache()


def descend(network, *losses):
    """Check the losses; on the CPU also pass backwards."""
    total = sum(losses)
    assert total.shape == () and total.dtype == torch.float32
    assert total.device.type == next(network.parameters()).device.type
    if total.device.type == "cpu":
        total.backward()
        assert any(p.grad is not None for p in network.parameters())


def images(device, scale=1):
    return torch.rand(BATCH, 3, SIDE * scale, SIDE * scale, device=device)


# --- networks and losses ---


def test_lightbsr_teacher(device, dtype):
    """Both stages: momentum update, contrast, super-resolution, queue."""
    teacher = LightBSRTeacher(num_prior=18, kernel_basis=torch.rand(441, 15), queue_size=8, **SIZES)
    with without_values():
        teacher.to(device)
        views, prior = torch.rand(BATCH, VIEWS, 3, SIDE, SIDE, device=device), torch.rand(BATCH, 18, device=device)
        for super_resolve in (False, True):
            teacher.update_key_estimator()
            with autocast(device, dtype):
                output = teacher.contrast(views, prior, super_resolve=super_resolve)
            losses = [ContrastiveLoss()(output.queries.float(), output.keys.float(), teacher.queue)]
            if super_resolve:
                losses.append(L1Loss(loss_weight=255.0)(output.sr.float(), images(device, SCALE)))
            descend(teacher, *losses)
            teacher.enqueue(output.keys[:, 0])
        assert teacher.queue.device.type == teacher.queue_ptr.device.type == device


def test_lightbsr_student(device, dtype):
    """Distillation and super-resolution, with the teacher's IDR as the target."""
    teacher, student = LightBSRTeacher(**SIZES).eval(), LightBSR(**SIZES)
    prior_loss = PriorLoss(L1Loss(), num_channel_idr=6, num_prior=15)
    with without_values():
        teacher.to(device), student.to(device), prior_loss.to(device)
        lq, prior = images(device), torch.rand(BATCH, 15, device=device)
        with autocast(device, dtype):
            with torch.no_grad():
                target = teacher.forward_with_idr(lq, prior).idr
            sr, idr = student.forward_with_idr(lq)
        assert idr.spatial.dtype == target.spatial.dtype == dtype  # autocast is at work
        descend(
            student,
            MSELoss()(idr.spatial.float(), target.spatial.float()),
            KLDistillationLoss()(idr.channel.float(), target.channel.float()),
            L1Loss(loss_weight=0.1)(idr.channel.float(), target.channel.float()),
            prior_loss(idr.channel.float(), prior),
            L1Loss(loss_weight=255.0)(sr.float(), images(device, SCALE)),
        )


def test_kdsr(device, dtype):
    teacher, student = KDSRTeacher(**KDSR_SIZES), KDSR(**KDSR_SIZES)
    with without_values():
        teacher.to(device), student.to(device)
        lq, gt = images(device), images(device, SCALE)
        with autocast(device, dtype):
            of_teacher, of_student = teacher.forward_with_idr(lq, gt), student.forward_with_idr(lq)
        assert of_student.idr.dtype == dtype
        descend(teacher, L1Loss()(of_teacher.sr.float(), gt))
        kl = KLDistillationLoss()(of_student.idr.float(), of_teacher.idr.detach().float())
        descend(student, kl, L1Loss()(of_student.sr.float(), gt))


def test_adversarial_loss(device, dtype):
    discriminator, loss = UNetDiscriminatorSN(3, num_feat=8), GANLoss("vanilla", loss_weight=0.1)
    with without_values():
        discriminator.to(device)
        with autocast(device, dtype):
            score = discriminator(images(device, SCALE)).float()
        descend(discriminator, loss(score, True, is_disc=False), loss(score, False, is_disc=True))


# --- degradations ---


@needs_cuda
@pytest.mark.parametrize("setting", ["iso", "aniso_noise"])
def test_classic_degradation_and_its_prior(setting):
    dataset = dict(type="DegradationPriorDataset", degradation=setting)
    degrader = build_degrader(dict(datasets=dict(train=dataset), train={}, scale=SCALE))
    with without_values():
        data = dict(
            gt=torch.randint(256, (BATCH, VIEWS, 3, 4 * SIDE, 4 * SIDE), dtype=torch.uint8),
            kernel=torch.rand(BATCH, 21, 21),
            noise_sigma=torch.rand(BATCH),
        )
        batch = degrader(data, torch.device("cuda"), torch.rand(441, 15, device="cuda"))
        assert batch.lq.shape == (BATCH, VIEWS, 3, SIDE, SIDE)
        assert {tensor.device.type for tensor in batch if tensor is not None} == {"cuda"}


@needs_cuda
@without_values()
def test_parts_of_the_second_order_degradation():
    """Blur and both kinds of noise; without a generator, which would need a GPU."""
    x, level = images("cuda", SCALE), torch.rand(BATCH, device="cuda")
    x = blur(x, torch.rand(BATCH, 21, 21, device="cuda"))
    noises = [noise(x, level, level.round(), None) for noise in (gaussian_noise, poisson_noise)]
    assert {(tuple(noise.shape), noise.device.type) for noise in noises} == {(tuple(x.shape), "cuda")}


@needs_cuda
@without_values()
def test_priors():
    kernels, sigma = torch.rand(BATCH, 21, 21, device="cuda"), torch.rand(BATCH, device="cuda")
    basis = torch.rand(441, 15, device="cuda")
    classic = degradation_prior(kernels, sigma, basis=basis, setting=get_setting("aniso_noise"))
    second_order = second_order_prior(classic_as_second_order(kernels, sigma), basis=basis)
    assert classic.device.type == second_order.device.type == "cuda"
