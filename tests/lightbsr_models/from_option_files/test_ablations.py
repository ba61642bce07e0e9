"""Two iterations of every ablation of LightBSR, teacher and student."""

import pytest

from lightbsr_arch import build_from_state_dict

SIZES = dict(num_feat=8, num_group=2, num_block=1, num_idr=16, num_channel_idr=4)


@pytest.mark.parametrize("row", ["T1", "T2", "T3", "M1", "M2", "M3", "M5", "D2", "D8"])
def test_teacher_and_student_train(row, image_folder, short_options, train, checkpoint):
    data = dict(dataroot_gt=str(image_folder), io_backend=dict(type="disk"), gt_size=24, batch_size_per_gpu=2)
    changes = {"datasets": {"train": data}, "network_g": SIZES, "train": {"total_iter": 2}}
    has_contrast = row not in ("T1", "T2")
    stage_1 = {"train": {"idr_pretrain_iter": 1}}

    teacher = short_options(f"lightbsr_teacher_x4_iso_{row}", changes, {"network_g": {"queue_size": 8}})
    teacher["train"]["idr_pretrain_iter"] = int(has_contrast)
    network = build_from_state_dict(train(teacher)["params"])
    assert network.query_estimator[0].in_channels == (3 if row in ("T1", "T3") else 18)
    assert int(network.queue_ptr) == (4 if has_contrast else 0)

    weights = {"path": {"pretrain_network_teacher": str(checkpoint(teacher["name"]))}}
    trained = train(short_options(f"lightbsr_student_x4_iso_{row}", changes, stage_1, weights))["params"]
    assert all(value.isfinite().all() for value in trained.values())
