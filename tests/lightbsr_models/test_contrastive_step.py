"""One step of the teacher's contrast against the released code's numbers, with the real loss.

The golden BatchNorm mean holds one pass more: the released code sends view 0 through the query estimator again after
the step (to super-resolve it), ours does not. Nothing else of the step depends on it.
"""

import pytest
import torch

from lightbsr.released import convert_state_dict
from lightbsr_arch import build_from_state_dict
from lightbsr_arch.idr import join_prior
from lightbsr_models import ContrastiveLoss


@pytest.fixture(scope="module")
def numbers(golden):
    return golden("lightbsr_teacher_x4_contrastive_step")


@pytest.fixture(scope="module")
def make_teacher(released_state_dict):
    _, state_dict = convert_state_dict(released_state_dict("lightbsr_teacher_x4_eval"))
    return lambda: build_from_state_dict(state_dict).train()


@pytest.fixture(scope="module")
def step(make_teacher, numbers):
    """The teacher after the step, the loss and the SR image, in float32 and without gradients."""
    teacher = make_teacher()
    with torch.no_grad():
        teacher.update_key_estimator()
        output = teacher.contrast(numbers["patches"], numbers["priors"], super_resolve=True)
        loss = ContrastiveLoss(temperature=0.07)(output.queries, output.keys, teacher.queue)
        teacher.enqueue(output.keys[:, 0])
    return teacher, loss, output.sr


def test_loss(step, numbers, relative_error):
    assert relative_error(step[1], numbers["loss"]) <= 1e-5


def test_super_resolved_view_0(step, numbers, relative_error):
    assert relative_error(step[2], numbers["sr"]) <= 1e-4


def test_queue_and_pointer(step, numbers, relative_error):
    teacher = step[0]
    assert relative_error(teacher.queue[:, :8], numbers["queue_after"]) <= 1e-4
    assert torch.equal(teacher.queue_ptr, numbers["queue_ptr_after"])


def test_key_estimators_weights(step, numbers, relative_error):
    assert relative_error(step[0].key_estimator[0].weight, numbers["key_encoder_conv0_after"]) <= 1e-5


def test_query_estimators_statistics(make_teacher, numbers, relative_error):
    teacher = make_teacher()
    with torch.no_grad():
        teacher.contrast(numbers["patches"], numbers["priors"], super_resolve=False)
        expected = numbers["query_bn0_running_mean_after"]
        assert relative_error(teacher.query_estimator[1].running_mean, expected) > 1e-2
        teacher.query_estimator(
            join_prior(numbers["patches"][:, 0], numbers["priors"])
        )  # the released code's extra one
    assert relative_error(teacher.query_estimator[1].running_mean, expected) <= 1e-4


def test_gradients_of_the_contrast(make_teacher, numbers, relative_error):
    """In float64: in float32 a LeakyReLU's input within rounding of zero may fall on the other side, and its slope of
    0.1 instead of 1 then changes single entries of the first convolution's gradient by a hundredth. The golden
    gradient, though computed in float32, agrees with float64 to 2.5e-6."""
    teacher = make_teacher().double()
    teacher.update_key_estimator()
    output = teacher.contrast(numbers["patches"].double(), numbers["priors"].double(), super_resolve=False)
    ContrastiveLoss(temperature=0.07)(output.queries, output.keys, teacher.queue).backward()
    assert relative_error(teacher.query_estimator[0].weight.grad, numbers["grad_conv0"].double()) <= 1e-4
    assert relative_error(teacher.query_projector[2].weight.grad, numbers["grad_mlp2"].double()) <= 1e-4
