"""LightBSRTeacher: the MoCo machinery (momentum, queue, BatchNorm), stages, sizes. Parity: ``lightbsr_models``."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from lightbsr_arch import LightBSRTeacher
from lightbsr_arch.idr import join_prior

TINY = dict(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=6, num_prior=5, queue_size=6)


def teacher(**options) -> LightBSRTeacher:
    """A tiny teacher whose key branch differs from its query branch, as after some steps of training."""
    network = LightBSRTeacher(**{**TINY, "layer_scale_init": 1.0, **options})
    with torch.no_grad():
        for key in (*network.key_estimator.parameters(), *network.key_projector.parameters()):
            key.add_(0.1 * torch.randn_like(key))
    return network


def batch_norms(network):
    return [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def test_key_branch_starts_as_a_copy_and_is_never_trained():
    network = LightBSRTeacher(**TINY)
    for query, key in (
        (network.query_estimator, network.key_estimator),
        (network.query_projector, network.key_projector),
    ):
        for q, k in zip(query.parameters(), key.parameters(), strict=True):
            assert torch.equal(q, k) and q is not k
            assert q.requires_grad and not k.requires_grad


def test_queue_starts_with_unit_keys():
    network = LightBSRTeacher(**{**TINY, "queue_size": 40})
    assert network.queue.shape == (16, 40)
    torch.testing.assert_close(network.queue.norm(dim=0), torch.ones(40))
    assert network.queue_ptr.tolist() == [0]


def test_momentum_update_is_its_formula_and_leaves_the_statistics_alone():
    network = teacher(momentum=0.9).train()
    network.contrast(torch.rand(3, 2, 3, 8, 8), torch.randn(3, 5), super_resolve=False)  # statistics that differ
    query = {**dict(network.query_estimator.named_parameters(prefix="e"))}
    query |= dict(network.query_projector.named_parameters(prefix="p"))
    key = {**dict(network.key_estimator.named_parameters(prefix="e"))}
    key |= dict(network.key_projector.named_parameters(prefix="p"))
    expected = {name: 0.9 * key[name].detach() + 0.1 * query[name].detach() for name in key}
    buffers = copy.deepcopy(dict(network.named_buffers()))
    queries = {name: value.detach().clone() for name, value in query.items()}
    network.update_key_estimator()
    for name, value in key.items():
        torch.testing.assert_close(value.detach(), expected[name], msg=name)
        assert torch.equal(query[name], queries[name]), name
    for name, value in network.named_buffers():
        assert torch.equal(value, buffers[name]), name


def test_key_estimator_keeps_statistics_of_its_own():
    """Every view passes as a batch of its own, views in order, through each estimator once."""
    network = teacher().train()
    lone_key, lone_query = copy.deepcopy(network.key_estimator), copy.deepcopy(network.query_estimator)
    views, prior = torch.rand(4, 3, 3, 8, 8), torch.randn(4, 5)
    network.contrast(views, prior, super_resolve=True)
    for d in range(3):
        lone_key(join_prior(views[:, d], prior))
        lone_query(join_prior(views[:, d], prior))
    for ours, alone in ((network.key_estimator, lone_key), (network.query_estimator, lone_query)):
        for a, b in zip(batch_norms(ours), batch_norms(alone), strict=True):
            torch.testing.assert_close(a.running_mean, b.running_mean)
            torch.testing.assert_close(a.running_var, b.running_var)
            assert a.num_batches_tracked == 3
    pair = zip(batch_norms(network.key_estimator), batch_norms(network.query_estimator), strict=True)
    assert all(not torch.allclose(k.running_mean, q.running_mean) for k, q in pair)


def test_queries_and_keys_are_projected_pooled_and_normalised():
    network = teacher().eval()
    views, prior = torch.rand(2, 3, 3, 9, 7), torch.randn(2, 5)
    output = network.contrast(views, prior, super_resolve=False)
    assert output.sr is None
    for embedded, estimator, projector in (
        (output.queries, network.query_estimator, network.query_projector),
        (output.keys, network.key_estimator, network.key_projector),
    ):
        assert embedded.shape == (2, 3, 16)
        for d in range(3):
            hidden = F.leaky_relu(projector[0](estimator(join_prior(views[:, d], prior)).mean((2, 3))), 0.1)
            scores = projector[2](hidden)
            torch.testing.assert_close(embedded[:, d], scores / scores.norm(dim=1, keepdim=True))
    assert output.queries.requires_grad and not output.keys.requires_grad


def test_contrast_super_resolves_view_0():
    network = teacher().eval()
    views, prior = torch.rand(2, 3, 3, 9, 7), torch.randn(2, 5)
    with torch.no_grad():
        sr = network.contrast(views, prior, super_resolve=True).sr
        torch.testing.assert_close(sr, network(views[:, 0], prior))
        assert not torch.allclose(sr, network(views[:, 1], prior))


def test_super_resolution_depends_on_the_prior():
    network, lq, priors = teacher().eval(), torch.rand(1, 3, 6, 6), (torch.zeros(1, 5), torch.full((1, 5), 30.0))
    with torch.no_grad():
        idrs = [network.estimate_idr(lq, prior) for prior in priors]
        images = [network(lq, prior) for prior in priors]
    assert not torch.allclose(idrs[0].channel, idrs[1].channel, rtol=0.01, atol=0)
    assert not torch.allclose(idrs[0].spatial, idrs[1].spatial, rtol=0.01, atol=0)
    assert not torch.equal(*images)


def test_enqueue_goes_round():
    network = LightBSRTeacher(**TINY)
    batches = [F.normalize(torch.randn(2, 16), dim=1) for _ in range(4)]
    untouched = network.queue.clone()
    network.enqueue(batches[0])
    assert network.queue_ptr.tolist() == [2]
    assert torch.equal(network.queue[:, 2:], untouched[:, 2:])
    for batch in batches[1:]:
        network.enqueue(batch)
    assert network.queue_ptr.tolist() == [2]  # four batches of two in a queue of six
    assert torch.equal(network.queue.T, torch.cat([batches[3], batches[1], batches[2]]))


@pytest.mark.parametrize("batch", [4, 5, 7, 12])
def test_enqueue_refuses_a_batch_that_does_not_divide_the_queue(batch):
    network = LightBSRTeacher(**TINY)
    before = network.queue.clone()
    with pytest.raises(ValueError, match="queue_size is 6"):
        network.enqueue(torch.randn(batch, 16))
    assert torch.equal(network.queue, before)


def _enqueue_on_rank(rank: int, meeting_point: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=2)
    torch.manual_seed(0)
    network = LightBSRTeacher(**TINY)
    network.enqueue(torch.full((1, 16), float(rank + 1)))
    assert network.queue[0, :2].tolist() == [1.0, 2.0], network.queue[0]
    assert network.queue_ptr.tolist() == [2]
    with pytest.raises(ValueError, match="batch of all ranks, 4"):
        network.enqueue(torch.zeros(2, 16))  # divides six on one rank, not on two
    dist.destroy_process_group()


def test_every_rank_holds_the_keys_of_all(tmp_path):
    mp.spawn(_enqueue_on_rank, args=(str(tmp_path / "store"),), nprocs=2)


def test_stage_1_gives_gradients_to_query_estimator_and_projector_alone():
    network = teacher().train()
    network.contrast(torch.rand(3, 2, 3, 8, 8), torch.randn(3, 5), super_resolve=False).queries[..., 0].sum().backward()
    with_gradient = {name for name, p in network.named_parameters() if p.grad is not None}
    expected = {n for n, _ in network.named_parameters() if n.startswith(("query_estimator.", "query_projector."))}
    assert with_gradient == expected


def test_stage_2_gives_every_trainable_parameter_a_gradient():
    network = teacher().train()
    output = network.contrast(torch.rand(3, 2, 3, 8, 8), torch.randn(3, 5), super_resolve=True)
    (output.queries[..., 0].sum() + output.sr.square().sum()).backward()
    dead = {f"query_estimator.{i}.bias" for i in range(0, 18, 3)}  # before a BatchNorm
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert name in dead or parameter.grad.any(), name
        else:
            assert name.startswith("key_") and parameter.grad is None, name


def test_student_and_teacher_share_the_super_resolving_part():
    from lightbsr_arch import LightBSR

    with torch.device("meta"):
        student, network = LightBSR().state_dict(), LightBSRTeacher().state_dict()
    shared = {key: value.shape for key, value in student.items() if key.startswith(("converter.", "sr_network."))}
    assert shared == {k: v.shape for k, v in network.items() if k.startswith(("converter.", "sr_network."))}
    assert network["query_estimator.0.weight"].shape == (32, 18, 3, 3)  # 3 + P, P = 15


def test_setting_and_basis_are_buffers():
    basis = torch.randn(441, 15)
    network = LightBSRTeacher(**TINY, kernel_basis=basis, setting="aniso_noise")
    assert network.setting == "aniso_noise"
    assert torch.equal(network.state_dict()["kernel_basis"], basis)
    basis.zero_()
    assert network.kernel_basis.any()  # a copy


def test_wrong_sizes_and_unknown_options_are_refused():
    with pytest.raises(ValueError, match="num_feat is 10"):
        LightBSRTeacher(**{**TINY, "num_feat": 10})
    with pytest.raises(TypeError, match="queue_sizes"):
        LightBSRTeacher(**TINY, queue_sizes=8)
