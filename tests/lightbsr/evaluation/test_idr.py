"""``lightbsr idr``: the scores on representations that are known, and the command from its command line."""

import csv

import cv2
import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_psnr

from lightbsr.evaluation.idr_scores import idr_scores, tsne
from lightbsr.evaluation.image_sets import find_images
from lightbsr.evaluation.representations import collect, swap_loss, targets
from lightbsr.evaluation.scoring import make_lq
from lightbsr_arch import IDR, KDSR, KDSRTeacher, LightBSR, LightBSRTeacher
from lightbsr_cli import main
from lightbsr_compat import InputError
from lightbsr_data import kernel_basis
from lightbsr_data.datasets import parse_fixed_degradation

SIZES = dict(num_feat=8, num_group=1, num_block=1, num_idr=32, num_channel_idr=4)


@pytest.fixture
def known():
    """20 images under 4 degradations: features (80, 6) that hold the degradation beside the content."""
    random = np.random.RandomState(0)
    labels, groups = np.tile(np.arange(4), 20), np.repeat(np.arange(20), 4)
    content = random.standard_normal((20, 6))[groups]
    width = np.array([0.6, 1.2, 2.4, 3.6])[labels]
    features = 0.3 * content + 3 * random.standard_normal((4, 6))[labels]
    features[:, 0] += 4 * width
    return features, labels, groups, {"sigma": width}


def test_separable_representations_score_high(known):
    scores = idr_scores(*known)
    assert scores["knn_accuracy"] > 0.98 and scores["silhouette"] > 0.5 and scores["sigma_share"] < 0.2
    assert scores == idr_scores(*known)  # fixed seeds


def test_shuffled_representations_score_low(known):
    features, labels, groups, aims = known
    shuffled = features[np.random.RandomState(1).permutation(len(features))]
    scores = idr_scores(shuffled, labels, groups, aims)
    assert scores["knn_accuracy"] < 0.45 and scores["silhouette"] < 0.02 and scores["sigma_share"] > 0.9


def test_content_does_not_leak_into_the_scores(known):
    """Features that know the image and nothing else: one that was seen in training must not help."""
    _, labels, groups, aims = known
    content = np.random.RandomState(2).standard_normal((20, 6))[groups] + 1e-3 * labels[:, None] * [1, 0, 0, 0, 0, 0]
    scores = idr_scores(content, labels, groups, aims)
    assert scores["knn_accuracy"] < 0.45 and scores["sigma_share"] > 0.9


def test_the_error_of_always_guessing_the_mean(known):
    """Features that are all the same leave ridge regression nothing but the mean."""
    _, labels, groups, aims = known
    scores = idr_scores(np.ones((80, 2)), labels, groups, aims)
    assert scores["sigma_share"] == pytest.approx(1)
    assert scores["sigma_error"] == pytest.approx(np.abs(aims["sigma"] - aims["sigma"].mean()).mean())


def test_too_few_images(known):
    features, labels, groups, aims = known
    with pytest.raises(InputError, match="there are 3 images under 4 degradations, but"):
        idr_scores(features[:12], labels[:12], groups[:12], {k: v[:12] for k, v in aims.items()})


def test_tsne(known):
    points = tsne(known[0])
    assert points.shape == (80, 2) and np.array_equal(points, tsne(known[0]))


def test_targets_are_what_varies():
    entries = [{"sigma": 1, "jpeg": 60}, {"sigma": 2}, {"sigma": 2, "noise_sigma": 5}]
    found = targets([parse_fixed_degradation(entry) for entry in entries], np.array([2, 0, 1]))
    assert {name: value.tolist() for name, value in found.items()} == {
        "sigma": [2, 1, 2],
        "noise": [5, 0, 0],
        "jpeg": [100, 60, 100],
    }
    anisotropic = [parse_fixed_degradation({"theta": 0, "sigma_x": x, "sigma_y": 1}) for x in (2, 3)]
    assert list(targets(anisotropic, np.array([0, 1]))) == ["sigma_x"]


@pytest.fixture
def images(tmp_path, photo):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(6):
        cv2.imwrite(str(folder / f"{i}.png"), photo(i, 56, 48 + i))
    return folder


def weights(path, network):
    torch.save({"params": network.state_dict()}, path)
    return str(path)


def run(images, out, *words):
    return main(["idr", "--data", str(images), "--device", "cpu", "--out", str(out), *words])


def rows(out):
    with open(out / "results.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_command(images, tmp_path, capsys):
    student = weights(tmp_path / "student.pth", LightBSR(**SIZES))
    options = dict(num_prior=18, kernel_basis=kernel_basis(), setting="aniso_noise", queue_size=8)
    teacher = weights(tmp_path / "teacher.pth", LightBSRTeacher(**SIZES, **options))
    words = ["--weights", student, f"T={teacher}", "--protocol", "idr_aniso_noise", "--swap"]
    assert run(images, tmp_path / "a", *words) == 0
    assert "silhouette" in capsys.readouterr().out
    found = rows(tmp_path / "a")
    assert [(row["weights"], row["representation"]) for row in found] == [
        (w, r) for w in ("student", "T") for r in ("idr_channel", "idr_spatial", "estimator")
    ]
    for row in found:
        assert (
            0 <= float(row["knn_accuracy"]) <= 1 and float(row["sigma_x_error"]) > 0 and float(row["sigma_y_share"]) > 0
        )
        assert float(row["psnr_own"]) > 0 and "noise_error" not in row  # one level of noise
    assert cv2.imread(str(tmp_path / "a" / "tsne_T.png")) is not None
    # A bad image is named and left out.
    (images / "bad.png").write_bytes(b"no image")
    assert run(images, tmp_path / "b", *words) == 1
    assert capsys.readouterr().err.count("bad.png") == 1
    assert rows(tmp_path / "b") == found


def test_vectors_of_another_method(images, tmp_path, capsys):
    labels = ["sigma0.6", "sigma1.2", "sigma2.4", "sigma3.6"] * 6
    names = np.repeat([f"image{i}" for i in range(6)], 4)
    vectors = np.eye(4)[np.arange(24) % 4] + 0.01 * np.random.RandomState(0).standard_normal((24, 4))
    np.savez(tmp_path / "dasr.npz", names=names, labels=labels, vectors=vectors)
    assert run(images, tmp_path / "out", "--weights", f"DASR={tmp_path / 'dasr.npz'}") == 0
    (row,) = rows(tmp_path / "out")
    assert (row["weights"], row["representation"]) == ("DASR", "vectors") and float(row["knn_accuracy"]) == 1
    np.savez(tmp_path / "bad.npz", names=names, labels=["sigma9", *labels[1:]], vectors=vectors)
    np.savez(tmp_path / "short.npz", names=names[1:], labels=labels, vectors=vectors)
    (tmp_path / "none.npz").write_bytes(b"nothing")
    for name, sentence in (
        ("bad", "label 'sigma9' is none of the protocol's"),
        ("short", "names (23,), labels (24,) and vectors (24, 4) do not fit"),
        ("none", "is no .npz file of names, labels and vectors"),
        ("nowhere", "is no .npz file of names, labels and vectors"),
    ):
        assert run(images, tmp_path / "out", "--weights", str(tmp_path / f"{name}.npz")) == 2
        assert sentence in capsys.readouterr().err


class Contrast(torch.nn.Module):
    """Its IDR is the LR image's contrast; another image's contrast is an error of the SR image."""

    upscale = 1

    def __init__(self):
        super().__init__()
        self.estimator = torch.nn.Identity()

    def converter(self, features, size):
        return IDR(features.std((2, 3)), features)

    def sr_network(self, lq, idr):
        return lq + 5 * (idr.channel - lq.std((2, 3)))[..., None, None].abs()


def test_swap_loss_by_hand(tmp_path):
    """Two blurs of an edge, every network call and score written out."""
    edge = np.full((40, 40, 3), 60, np.uint8)
    edge[:20] = 100
    cv2.imwrite(str(tmp_path / "a.png"), edge)
    degradations = [parse_fixed_degradation({"sigma": sigma}) for sigma in (0.5, 3)]
    network = Contrast()
    images = find_images(str(tmp_path), "degraded", 1)
    found = swap_loss(collect(network, images, degradations, torch.device("cpu"), swap=True)[1])
    lqs = [make_lq(images[0], edge, d, 1)[None] for d in degradations]
    psnr = {}
    for i, lq in enumerate(lqs):
        for j, other in enumerate(lqs):
            sr = network.sr_network(lq, network.converter(other, None))[0]
            image = (sr * 255).round().byte().permute(1, 2, 0).numpy()
            psnr[i, j] = calculate_psnr(image, edge, crop_border=1, test_y_channel=True)
    assert psnr[0, 0] > psnr[0, 1] + 1 and psnr[1, 1] > psnr[1, 0] + 1
    assert found["psnr_own"] == pytest.approx((psnr[0, 0] + psnr[1, 1]) / 2)
    assert found["swap_loss"] == pytest.approx((psnr[0, 0] - psnr[0, 1] + psnr[1, 1] - psnr[1, 0]) / 2)


def test_kdsr(images, tmp_path):
    sizes = dict(num_feat=8, num_block=1, num_resblock=1)
    student = weights(tmp_path / "student.pth", KDSR(**sizes))
    teacher = weights(tmp_path / "teacher.pth", KDSRTeacher(**sizes, setting="iso"))
    assert run(images, tmp_path / "out", "--weights", student, f"T={teacher}", "--swap") == 0
    found = rows(tmp_path / "out")
    assert [(row["weights"], row["representation"]) for row in found] == [
        (w, r) for w in ("student", "T") for r in ("idr", "guide")
    ]
    assert all(np.isfinite(float(row["swap_loss"])) for row in found)


def test_refusals(images, tmp_path, capsys):
    student = weights(tmp_path / "student.pth", LightBSR(**SIZES))
    other = weights(tmp_path / "x2.pth", LightBSR(upscale=2, **SIZES))
    bare = weights(tmp_path / "bare.pth", LightBSRTeacher(**SIZES, queue_size=8))
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "bad.png").write_bytes(b"no image")
    for folder, words, sentence in (
        (images, ["--weights", student, other], "scales are [2, 4], but must be the same"),
        (images, ["--weights", student, student], "are not all different"),
        (images, ["--weights", f"../x={student}"], "becomes part of a file's name"),
        (images, ["--weights", bare], "has no kernel basis"),
        (images, ["--weights", student, "--protocol", "real"], "has no degradations"),
        (images, ["--weights", student, "--images", "3"], "there are 3 images"),
        ("nowhere", ["--weights", student], "'nowhere' is no folder of images"),
        (empty, ["--weights", student], "holds no image that can be used"),
    ):
        assert run(folder, tmp_path / "o", *words) == 2
        assert sentence in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(images, tmp_path / "o", "--weights", student, "--images", "0")
    assert "argument --images: 0 is less than 1" in capsys.readouterr().err
