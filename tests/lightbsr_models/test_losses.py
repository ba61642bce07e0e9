"""The losses against golden numbers and slow formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from basicsr.losses import build_loss

from lightbsr_models.losses import PriorLoss  # the import registers the losses


def contrastive(**options):
    return build_loss({"type": "ContrastiveLoss", **options})


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def slow_contrast(queries, keys, queue, temperature):
    """Cross-entropy of every ordered pair of views, the positive in column 0 (MoCo's Algorithm 1)."""
    total, pairs = 0.0, 0
    for i in range(queries.shape[1]):
        for j in range(queries.shape[1]):
            if i != j:
                positive = (queries[:, i] * keys[:, j]).sum(1, keepdim=True)
                logits = torch.cat([positive, queries[:, i] @ queue], dim=1) / temperature
                total += F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
                pairs += 1
    return total / pairs


@pytest.mark.parametrize("views", [2, 3, 4])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_contrast_is_the_mean_cross_entropy_over_ordered_pairs(views, temperature):
    queries, keys, queue = unit(5, views, 16), unit(5, views, 16), unit(40, 16).T
    ours = contrastive(temperature=temperature)(queries, keys, queue)
    torch.testing.assert_close(ours, slow_contrast(queries, keys, queue, temperature))


def test_contrast_has_the_same_gradient():
    keys, queue, start = unit(3, 4, 8), unit(20, 8).T, unit(3, 4, 8)
    gradients = []
    for loss in (contrastive(), lambda *a: slow_contrast(*a, 0.07)):
        queries = start.clone().requires_grad_()
        loss(queries, keys, queue).backward()
        gradients.append(queries.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_contrast_of_perfect_and_of_useless_keys():
    e = torch.eye(4)
    queries = e[:2].expand(3, 2, 4)[:, :1].expand(3, 2, 4)  # both views of all images: the first axis
    queue = e[1:].T  # orthogonal negatives
    perfect = contrastive(temperature=0.07)(queries, queries, queue)
    assert perfect == pytest.approx(math.log(1 + 3 * math.exp(-1 / 0.07)), abs=1e-6)
    useless = contrastive(temperature=0.07)(queries, e[1].expand(3, 2, 4), queue)
    assert useless == pytest.approx(math.log(1 + 3), abs=1e-6)


def test_contrast_stays_finite_at_a_low_temperature():
    """exp(1 / 0.001) is beyond float32: the sum must be taken in logarithms."""
    queries = unit(2, 1, 8).expand(2, 2, 8)
    loss = contrastive(temperature=1e-3)(queries, -queries, queries[:, 0].T)
    assert loss == pytest.approx(2000, rel=1e-3)  # ln(e^1000 / e^-1000)


def test_golden_distillation_losses(golden, relative_error):
    numbers = golden("lightbsr_distillation_losses")
    student, teacher = numbers["channel_student"], numbers["channel_teacher"]
    kl = build_loss({"type": "KLDistillationLoss"})(student, teacher)
    l1 = build_loss({"type": "L1Loss", "loss_weight": 0.1})(student, teacher)
    l2 = build_loss({"type": "MSELoss"})(numbers["spatial_student"], numbers["spatial_teacher"])
    assert relative_error(kl + l1, numbers["kl_plus_beta_l1"]) <= 1e-5
    assert relative_error(l2, numbers["l2"]) <= 1e-5


@pytest.mark.parametrize("temperature", [0.15, 2.0])
def test_kl_against_a_slow_formula(temperature):
    student, teacher = torch.randn(3, 7), torch.randn(3, 7)
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p = [math.exp(v / temperature) for v in t]
        q = [math.exp(v / temperature) for v in s]
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    ours = build_loss({"type": "KLDistillationLoss", "temperature": temperature})(student, teacher)
    assert ours == pytest.approx(total / 3, rel=1e-4)


def test_kl_is_zero_at_the_teacher_and_blind_to_an_offset():
    loss, teacher = build_loss({"type": "KLDistillationLoss"}), torch.randn(3, 7)
    assert loss(teacher, teacher) == pytest.approx(0, abs=1e-6)
    assert loss(teacher + 0.5, teacher) == pytest.approx(0, abs=1e-5)
    assert loss(-teacher, teacher) > 0.1


def test_kl_survives_extreme_scores():
    loss = build_loss({"type": "KLDistillationLoss"})
    student = torch.tensor([[100.0, -100.0]], requires_grad=True)
    value = loss(student, torch.tensor([[-100.0, 100.0]]))
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all()


@pytest.mark.parametrize("name", ["ContrastiveLoss", "KLDistillationLoss"])
def test_loss_weight_is_a_factor(name):
    shapes = {"ContrastiveLoss": [(2, 3, 8), (2, 3, 8), (8, 5)], "KLDistillationLoss": [(4, 6), (4, 6)]}[name]
    arguments = [torch.randn(*shape) for shape in shapes]
    plain = build_loss({"type": name})(*arguments)
    torch.testing.assert_close(build_loss({"type": name, "loss_weight": 3.0})(*arguments), 3 * plain)


@pytest.mark.parametrize("name", ["ContrastiveLoss", "KLDistillationLoss"])
def test_unknown_options_are_refused(name):
    with pytest.raises(TypeError, match="temprature"):
        build_loss({"type": name, "temprature": 0.1})


def test_prior_loss_reads_the_channel_idr_linearly():
    loss = PriorLoss(torch.nn.MSELoss(), num_channel_idr=4, num_prior=3)
    channel, prior = torch.randn(5, 4), torch.randn(5, 3)
    read = channel @ loss.readout.weight.T + loss.readout.bias
    torch.testing.assert_close(loss(channel, prior), (read - prior).square().mean())
