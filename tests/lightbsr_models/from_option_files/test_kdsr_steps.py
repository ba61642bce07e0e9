"""Steps of KDSR-M's teacher and student, as the packaged option files train them, against a plain loop in float64.

The loop is written from the facts of the released procedure: L1 of weight 1 between images in [0, 1], KL at
temperature 0.15, Adam with betas 0.9 and 0.999, and a student that takes the SR network alone from its teacher.
Networks, losses and optimizer are its own; the weights have our names.
"""

import pytest
import torch
import torch.nn.functional as F
from as_published import degrade
from basicsr.models import build_model

from lightbsr.packaged import packaged_options
from lightbsr_arch import KDSR, KDSRTeacher
from lightbsr_compat import load_options
from lightbsr_data import gaussian_kernels

BATCH, SIDE, SCALE, STEPS = 2, 12, 4, 2
LR, BETA_1, BETA_2, EPS, TEMPERATURE = 1e-4, 0.9, 0.999, 1e-8, 0.15
MEAN = torch.tensor([0.4488, 0.4371, 0.4040]).double().view(1, 3, 1, 1)  # in float32, as both implementations hold it


def act(x):
    return torch.where(x > 0, x, 0.1 * x)


def conv(w, name, x):
    return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)


def estimate(w, x):
    """The IDR (B, 256) of an image (B, 3 or 51, h, w)."""
    x = act(conv(w, "estimator.features.0", x))
    for i in range(2, 11):  # nine residual blocks
        x = x + conv(w, f"estimator.features.{i}.2", act(conv(w, f"estimator.features.{i}.0", x)))
    for i in (11, 13, 15):
        x = act(conv(w, f"estimator.features.{i}", x))
    return act(linear(w, "estimator.mlp.2", act(linear(w, "estimator.mlp.0", x.mean((2, 3))))))


def super_resolve(w, lq, idr):
    guide = act(linear(w, "converter.0", idr))
    x = head = conv(w, "sr_network.head", lq - MEAN)
    for i in range(53):
        block = f"sr_network.blocks.{i}"
        kernels = linear(w, f"{block}.to_kernel.2", act(linear(w, f"{block}.to_kernel.0", guide))).view(-1, 64, 1, 3, 3)
        pairs = zip(x, kernels, strict=True)
        filtered = torch.stack([F.conv2d(image, kernel, padding=1, groups=64) for image, kernel in pairs])
        x = x + conv(w, f"{block}.conv", act(filtered))
    x = conv(w, "sr_network.body_conv", x) + head
    for i in (0, 2):
        x = F.pixel_shuffle(conv(w, f"sr_network.tail.upsample.{i}", x), 2)
    return conv(w, "sr_network.tail.conv", x) + MEAN


def losses(w, teacher, lq, gt):
    """Of the student if a teacher's weights are given, else of the teacher."""
    hints = torch.cat([lq, F.pixel_unshuffle(gt, SCALE)], dim=1)
    idr = estimate(w, hints if teacher is None else lq)
    found = {"l_pix": (super_resolve(w, lq, idr) - gt).abs().mean()}
    if teacher is not None:
        target, own = ((x / TEMPERATURE).softmax(1) for x in (estimate(teacher, hints), idr))
        found["l_kl"] = (target * (target.log() - own.log())).sum(1).mean()
    return found


def plain_steps(w, teacher, lq, gt):
    """Train the weights in place; the losses of each step."""
    weights = [x.requires_grad_() for x in w.values()]
    moments, logs = [[torch.zeros_like(x), torch.zeros_like(x)] for x in weights], []
    for t in range(1, STEPS + 1):
        found = losses(w, teacher, lq, gt)
        gradients = torch.autograd.grad(sum(found.values()), weights)
        with torch.no_grad():
            for x, g, m in zip(weights, gradients, moments, strict=True):
                m[0], m[1] = BETA_1 * m[0] + (1 - BETA_1) * g, BETA_2 * m[1] + (1 - BETA_2) * g * g
                x -= LR * m[0] / (1 - BETA_1**t) / ((m[1] / (1 - BETA_2**t)).sqrt() + EPS)
        logs.append({name: float(loss) for name, loss in found.items()})
    return logs


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_steps(kind, tmp_path):
    teacher = KDSRTeacher(setting="iso")
    torch.save({"params": teacher.state_dict()}, tmp_path / "teacher.pth")
    options = load_options(packaged_options()[f"kdsr_{kind}_M_x4_iso"])
    options |= dict(is_train=True, dist=False, rank=0, world_size=1, num_gpu=0)
    options["path"] |= {f"pretrain_network_{'g' if kind == 'teacher' else 'teacher'}": str(tmp_path / "teacher.pth")}
    torch.manual_seed(1)
    model = build_model(options)
    torch.manual_seed(1)
    w, teachers = {n: p.detach().double() for n, p in teacher.named_parameters()}, None
    if kind == "student":
        own = {name: p.detach().double() for name, p in KDSR().named_parameters()}
        w, teachers = own | {name: x.clone() for name, x in w.items() if name.startswith("sr_network.")}, w

    sigma = torch.tensor([0.8, 2.5])
    gt = torch.randint(256, (BATCH, 1, 3, SCALE * SIDE, SCALE * SIDE), dtype=torch.uint8)
    kernel = gaussian_kernels(sigma, sigma, torch.zeros(BATCH))
    model.feed_data({"gt": gt, "kernel": kernel, "noise_sigma": torch.zeros(BATCH)})
    lq, gt = degrade(gt / 255, kernel, None, scale=SCALE)[:, 0], gt[:, 0].double() / 255
    torch.testing.assert_close(model.batch.lq[:, 0], lq, rtol=0, atol=1e-6)
    lq = (lq.double() * 255).round() / 255
    model.batch = model.batch._replace(lq=lq[:, None], gt=gt)
    model.net_g.double()
    if kind == "student":
        model.teacher.double()

    for step, expected in enumerate(plain_steps(w, teachers, lq, gt), 1):
        model.optimize_parameters(step)
        assert model.log_dict == pytest.approx(expected, rel=1e-9)
    trained = dict(model.net_g.named_parameters())
    assert trained.keys() == w.keys()
    assert max(float((trained[name] - x).detach().abs().max()) for name, x in w.items()) <= 1e-9
