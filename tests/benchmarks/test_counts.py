"""What must not grow, counted on tiny networks: forward passes, operators, copies, bytes kept, graph breaks.

The figures are those of today's code; a smaller one is welcome, and to be entered here.
"""

import pytest
import torch
from counting import OperatorCounter, forward_passes, gmacs, kept_bytes
from jobs import SIZES, Batch, OurTraining, PublishedTraining, Sizes, make_student

from lightbsr_arch import KDSR
from lightbsr_data import ClassicDegradation
from lightbsr_models.speed import sr_parts

CPU, TINY = torch.device("cpu"), SIZES["tiny"]
VIEWS = 3
THREE_VIEWS = Sizes(batch=2, views=VIEWS, lr=8, image=12, network=TINY.network)


def passes_of_a_step(training, networks, stage):
    """Forward passes of each part of these networks in one step, the first left out: it enters the stage."""
    training.step(stage=stage)
    counts = []
    for network in networks:
        with forward_passes(network) as passes:
            training.step(stage=stage)
        counts.append(dict(passes))
    return counts


# --- forward passes ---


@pytest.mark.parametrize(
    "stage, beyond_contrast", [(1, {}), (2, {"converter": 1, "sr_network": 1})], ids=["stage 1", "stage 2"]
)
def test_passes_of_the_teachers_step(stage, beyond_contrast):
    training = OurTraining("teacher", THREE_VIEWS, CPU)
    (passes,) = passes_of_a_step(training, [training.model.net_g], stage)
    parts = ("query_estimator", "query_projector", "key_estimator", "key_projector")
    assert passes == dict.fromkeys(parts, VIEWS) | beyond_contrast


@pytest.mark.parametrize("stage, beyond_distillation", [(1, {}), (2, {"sr_network": 1})], ids=["stage 1", "stage 2"])
def test_passes_of_the_students_step(stage, beyond_distillation):
    training = OurTraining("student", TINY, CPU)
    student, teacher = passes_of_a_step(training, [training.model.net_g, training.model.teacher], stage)
    assert student == {"estimator": 1, "converter": 1} | beyond_distillation
    assert teacher == {"query_estimator": 1, "converter": 1}


def test_the_released_procedure_wastes_what_it_is_said_to_waste():
    teacher = PublishedTraining("teacher", THREE_VIEWS, CPU)
    (passes,) = passes_of_a_step(teacher, [teacher.training.teacher], 2)
    assert passes["query_estimator"] == VIEWS + 1 and passes["key_estimator"] == VIEWS
    student = PublishedTraining("student", TINY, CPU)
    counts = passes_of_a_step(student, [student.training.student, student.training.teacher], 1)
    assert [count["sr_network"] for count in counts] == [1, 1]  # in stage 1, which needs neither


def test_checkpointing_runs_every_part_once_more_and_no_estimator():
    training = OurTraining("student", TINY, CPU, checkpointing=True)
    calls = []
    sr_parts(training.model.net_g)[0].blocks[0].register_forward_hook(lambda *_: calls.append(1))
    (passes,) = passes_of_a_step(training, [training.model.net_g], 2)
    assert passes == {"estimator": 1, "converter": 1, "sr_network": 1}
    assert len(calls) == 2 * 2  # two steps


# --- operators and copies ---


ESTIMATOR = 6
# Head, body's and tail's convolutions (the tail has three); a group of one block: two of correction, its branch's three
# (depthwise and two linear layers), its own; a block: two of the gate, the partial one, its branch's three.
SR_NETWORK = 1 + 1 + 3 + (2 + 3 + 1) + (2 + 1 + 3)
CONVERTER = 1


@pytest.mark.parametrize(
    "kind, stage, forward, backward, copied_bytes",
    [
        # The prior's share of the teacher's first layer is a convolution of its own, on nine pixels.
        ("teacher", 1, VIEWS * 2 * (ESTIMATOR + 1), VIEWS * (ESTIMATOR + 1), 2720),
        ("teacher", 2, VIEWS * 2 * (ESTIMATOR + 1) + CONVERTER + SR_NETWORK, None, 2720),
        ("student", 1, 2 * (ESTIMATOR + CONVERTER) + 1, ESTIMATOR + CONVERTER, 0),
        ("student", 2, 2 * (ESTIMATOR + CONVERTER) + 1 + SR_NETWORK, ESTIMATOR + CONVERTER + SR_NETWORK, 0),
    ],
)
def test_convolutions_and_copies_of_a_step(kind, stage, forward, backward, copied_bytes):
    """All that is copied are the teacher's keys, into the queue, and one gradient, into its weight's layout."""
    training = OurTraining(kind, THREE_VIEWS, CPU)
    training.step(stage=stage)
    with OperatorCounter() as counter:
        training.step(stage=stage)
    assert counter.calls["convolution"] <= forward
    assert counter.calls["convolution_backward"] <= (backward or VIEWS * (ESTIMATOR + 1) + CONVERTER + SR_NETWORK)
    assert counter.copied_bytes <= copied_bytes


def test_degradation_is_three_convolutions_for_all_views():
    gt, kernel = torch.rand(2, VIEWS, 3, 64, 64), torch.rand(2, 21, 21)
    with OperatorCounter() as counter:
        ClassicDegradation(scale=4)(gt, kernel, torch.zeros(2))
    assert counter.calls["convolution"] <= 3


def test_inference_in_channels_last_copies_nothing_but_small_maps():
    """Less than one feature map is copied in the whole network."""
    network = make_student(TINY).eval().to(memory_format=torch.channels_last)
    lq = torch.rand(1, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), OperatorCounter() as counter:
        network(lq)
    assert counter.copied_bytes < 8 * 32 * 32 * 4


# --- memory ---


def test_bytes_kept_for_the_backward_pass():
    """For each image more of the student's stage 2; halved by bf16, and nearly all gone with checkpointing."""
    sizes = dict(lr=16, network=dict(TINY.network, num_group=4, num_block=2))

    def per_image(**options):
        kept = []
        for batch in (1, 2):
            training = OurTraining("student", Sizes(batch=batch, **sizes), CPU, **options)
            lq = Batch.random(Sizes(batch=batch, **sizes), CPU).lq[:, 0]
            with kept_bytes() as count:
                training.model.autocast(training.model.net_g.forward_with_idr, lq)
            kept.append(count[0])
        return kept[1] - kept[0]

    plain = per_image()
    assert plain <= 1_330_584
    assert per_image(amp="bf16") <= 0.7 * plain
    assert per_image(checkpointing=True) <= 0.5 * plain


# --- graphs ---


@pytest.mark.parametrize("network", [make_student(TINY), KDSR(num_feat=8, num_block=1, num_resblock=1)])
def test_networks_have_no_graph_breaks(network):
    torch.compiler.reset()
    report = torch._dynamo.explain(network.eval())(torch.rand(1, 3, 8, 8))
    assert report.graph_break_count == 0 and report.graph_count == 1, report.break_reasons


def test_one_graph_serves_all_blocks():
    """Compiled one by one, they are alike: the time to compile does not grow with the network."""
    network = make_student(Sizes(network=dict(TINY.network, num_group=3, num_block=2))).eval()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    for part in sr_parts(network):
        for block in part.blocks:
            block.compile(backend=backend)
    with torch.no_grad():
        network(torch.rand(1, 3, 8, 8))
    assert len(graphs) == 1


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_gmacs_of_a_convolution_and_its_gradients_by_hand(groups):
    layer, x = torch.nn.Conv2d(8, 8, 3, padding=1, groups=groups), torch.rand(2, 8, 5, 6, requires_grad=True)
    of_forward = 2 * 5 * 6 * 8 * (8 // groups) * 9 / 1e9
    assert gmacs(lambda: layer(x)) == pytest.approx(of_forward)
    assert gmacs(lambda: layer(x).sum().backward()) == pytest.approx(3 * of_forward)
