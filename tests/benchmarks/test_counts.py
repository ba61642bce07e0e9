"""Forward passes of a training step, graphs and multiply-accumulates, counted on tiny networks."""

import pytest
import torch
from counting import forward_passes, gmacs
from jobs import SIZES, OurTraining, PublishedTraining, Sizes, make_student

from lightbsr_arch import KDSR
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
