"""``lightbsr idr``: the scores on representations that are known, and the command from its command line."""

import json

import cv2
import numpy as np
import pytest
import torch

from lightbsr.evaluation.idr_scores import idr_scores, tsne
from lightbsr.evaluation.scatter import scatter_panels
from lightbsr_arch import KDSR, KDSRTeacher, LightBSR, LightBSRTeacher
from lightbsr_cli import main
from lightbsr_compat import InputError
from lightbsr_data import kernel_basis

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
    assert scores["knn_accuracy"] > 0.98 and scores["silhouette"] > 0.5 and scores["davies_bouldin"] < 1
    assert scores["sigma_error"] < 0.2 * scores["sigma_error_of_mean"]
    assert scores == idr_scores(*known)  # fixed seeds


def test_shuffled_representations_score_low(known):
    features, labels, groups, targets = known
    shuffled = features[np.random.RandomState(1).permutation(len(features))]
    scores = idr_scores(shuffled, labels, groups, targets)
    assert scores["knn_accuracy"] < 0.45 and scores["silhouette"] < 0.02 and scores["davies_bouldin"] > 3
    assert scores["sigma_error"] > 0.9 * scores["sigma_error_of_mean"]


def test_content_does_not_leak_into_the_scores(known):
    """Features that know the image and nothing else: one that was seen in training must not help."""
    _, labels, groups, targets = known
    content = np.random.RandomState(2).standard_normal((20, 6))[groups] + 1e-3 * labels[:, None] * [1, 0, 0, 0, 0, 0]
    scores = idr_scores(content, labels, groups, targets)
    assert scores["knn_accuracy"] < 0.45 and scores["sigma_error"] > 0.9 * scores["sigma_error_of_mean"]


def test_too_few_images(known):
    features, labels, groups, targets = (x if isinstance(x, dict) else x[:12] for x in known)
    with pytest.raises(InputError, match="there are 3 images under 4 degradations, but"):
        idr_scores(features, labels, groups, {k: v[:12] for k, v in targets.items()})


def test_tsne_and_picture(known):
    features, labels, _, _ = known
    points = tsne(features)
    assert points.shape == (80, 2) and np.array_equal(points, tsne(features))
    image = scatter_panels([("one", points), ("two", points)], labels, list("abcd"))
    assert image.dtype == np.uint8 and image.shape[1] == 840 and (image < 200).any()


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.RandomState(0)
    for i in range(6):
        image = cv2.resize(random.uniform(0, 255, (12, 12, 3)), (48 + i, 56), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{i}.png"), image.clip(0, 255).astype(np.uint8))
    return folder


def weights(path, network):
    torch.save({"params": network.state_dict()}, path)
    return str(path)


def test_command(images, tmp_path, capsys):
    student = weights(tmp_path / "student.pth", LightBSR(**SIZES))
    options = dict(num_prior=18, kernel_basis=kernel_basis(), setting="aniso_noise", queue_size=8)
    teacher = weights(tmp_path / "teacher.pth", LightBSRTeacher(**SIZES, **options))
    words = ["idr", "--data", str(images), "--weights", student, f"T={teacher}", "--protocol", "idr_aniso_noise"]
    assert main([*words, "--device", "cpu", "--out", str(tmp_path / "a")]) == 0
    assert "silhouette" in capsys.readouterr().out
    scores = json.loads((tmp_path / "a" / "results.json").read_text(encoding="utf-8"))["scores"]
    assert [(s["weights"], s["representation"]) for s in scores] == [
        (w, r) for w in ("student", "T") for r in ("idr_channel", "idr_spatial", "estimator")
    ]
    assert all(0 <= s["knn_accuracy"] <= 1 and s["noise_error"] > 0 and s["sigma_error"] > 0 for s in scores)
    assert cv2.imread(str(tmp_path / "a" / "tsne_T.png")).shape[1] == 3 * 420
    # A bad image is named and left out.
    (images / "bad.png").write_bytes(b"no image")
    assert main([*words, "--device", "cpu", "--out", str(tmp_path / "b")]) == 1
    assert capsys.readouterr().err.count("bad.png") == 1
    again = json.loads((tmp_path / "b" / "results.json").read_text(encoding="utf-8"))["scores"]
    assert again == scores


def test_refusals(images, tmp_path, capsys):
    student = weights(tmp_path / "student.pth", LightBSR(**SIZES))
    other = weights(tmp_path / "x2.pth", LightBSR(upscale=2, **SIZES))
    bare = weights(tmp_path / "bare.pth", LightBSRTeacher(**SIZES, queue_size=8))
    for words, sentence in (
        (["--weights", student, other], "scales are [2, 4], but must be the same"),
        (["--weights", student, student], "are not all different"),
        (["--weights", f"../x={student}"], "becomes part of a file's name"),
        (["--weights", bare], "has no kernel basis"),
        (["--weights", student, "--protocol", "real"], "has no degradations"),
        (["--weights", student, "--images", "3"], "there are 3 images"),
    ):
        assert main(["idr", "--data", str(images), "--device", "cpu", "--out", str(tmp_path / "o"), *words]) == 2
        assert sentence in capsys.readouterr().err
    assert main(["idr", "--data", "nowhere", "--weights", student, "--device", "cpu"]) == 2
    assert "'nowhere' is no folder of images" in capsys.readouterr().err


def test_numbers_on_the_command_line_are_checked(capsys):
    with pytest.raises(SystemExit):
        main(["idr", "--data", "x", "--weights", "y", "--images", "0"])
    assert "argument --images: 0 is less than 1" in capsys.readouterr().err


def test_kdsr_needs_no_flag(images, tmp_path):
    sizes = dict(num_feat=8, num_block=1, num_resblock=1)
    student = weights(tmp_path / "student.pth", KDSR(**sizes))
    teacher = weights(tmp_path / "teacher.pth", KDSRTeacher(**sizes, setting="iso"))
    out = tmp_path / "out"
    words = ["idr", "--data", str(images), "--weights", student, f"T={teacher}", "--device", "cpu", "--out", str(out)]
    assert main(words) == 0
    scores = json.loads((out / "results.json").read_text(encoding="utf-8"))["scores"]
    assert [(s["weights"], s["representation"]) for s in scores] == [
        (w, r) for w in ("student", "T") for r in ("idr", "guide")
    ]


def test_no_image_that_can_be_used(tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "bad.png").write_bytes(b"no image")
    student = weights(tmp_path / "student.pth", LightBSR(**SIZES))
    assert (
        main(["idr", "--data", str(folder), "--weights", student, "--device", "cpu", "--out", str(tmp_path / "o")]) == 2
    )
    errors = capsys.readouterr().err
    assert "holds no image that can be used" in errors and "bad.png" in errors
