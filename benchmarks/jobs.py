"""What is measured, ready to run: our models with a batch in them, and the released procedures with the same."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from as_published import StudentTraining, TeacherTraining
from torch import Tensor

import lightbsr  # noqa: F401  (registers the models)
from lightbsr.packaged import packaged_options
from lightbsr_arch import LightBSR, LightBSRTeacher
from lightbsr_compat import load_options
from lightbsr_data import TrainingBatch, kernel_basis

LR = 2e-4


@dataclass(frozen=True)
class Sizes:
    """How large the measured work is.

    Attributes:
        name: among ``SIZES``, where they are one of them.
        batch, views, lr: B, D and the LR patch's side of the training steps and of the degradation.
        image: side of the LR image that is upscaled.
        network: options of the networks; the paper's where there are none.
        kernels: that the basis is made of.
        drawn_kernels: of which the released procedure draws so many here; its time is proportional to them.
        hr_image: (height, width) of the files that training images are read from.
    """

    name: str = ""
    batch: int = 4
    views: int = 4
    lr: int = 32
    image: int = 256
    network: dict[str, Any] = field(default_factory=dict)
    kernels: int = 5000
    drawn_kernels: int = 50
    hr_image: tuple[int, int] = (1356, 2040)


# cpu: what the paper's numbers of work were first measured at on two cores; cuda: the paper's batch.
_ALL_SIZES = (
    Sizes("cpu"),
    Sizes("cuda", batch=64, lr=64),
    Sizes("quick", batch=2, lr=24, image=64, network=dict(num_group=2, num_block=2), drawn_kernels=5),
    Sizes(
        "tiny",
        batch=2,
        views=2,
        lr=8,
        image=12,
        network=dict(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=6),
        kernels=50,
        drawn_kernels=2,
        hr_image=(160, 200),
    ),
)
SIZES = {sizes.name: sizes for sizes in _ALL_SIZES}


def make_teacher(sizes: Sizes) -> LightBSRTeacher:
    """A teacher with random weights, in which every block counts: the layer scales start at 0.1."""
    torch.manual_seed(0)
    return LightBSRTeacher(kernel_basis=kernel_basis(), setting="iso", layer_scale_init=0.1, **sizes.network)


def make_student(sizes: Sizes) -> LightBSR:
    torch.manual_seed(1)
    return LightBSR(layer_scale_init=0.1, **sizes.network)


@dataclass
class Batch:
    """lq (B, D, 3, h, w) and gt (B, 3, 4 h, 4 w) in [0, 1], prior (B, 15)."""

    lq: Tensor
    gt: Tensor
    prior: Tensor

    @classmethod
    def random(cls, sizes: Sizes, device: torch.device) -> "Batch":
        generator = torch.Generator().manual_seed(2)

        def draw(*size: int) -> Tensor:
            return torch.rand(size, generator=generator).to(device)

        b, h = sizes.batch, sizes.lr
        return cls(draw(b, sizes.views, 3, h, h), draw(b, 3, 4 * h, 4 * h), draw(b, 15))


def _model(kind: str, sizes: Sizes, device: torch.device, train: dict[str, Any], paths: dict[str, str]) -> Any:
    """A model of the packaged option file of that kind, with the given options of ``train`` and ``path`` besides."""
    from basicsr.models import build_model  # only now: lightbsr mends what keeps it from being imported

    options = load_options(packaged_options()[f"lightbsr_{kind}_x4_iso"])
    options |= dict(is_train=True, dist=False, rank=0, world_size=1, num_gpu=int(device.type == "cuda"))
    if torch.distributed.is_initialized():
        options |= dict(dist=True, rank=torch.distributed.get_rank(), world_size=torch.distributed.get_world_size())
    options["datasets"]["train"].update(batch_size_per_gpu=sizes.batch, num_views=sizes.views, scale=4)
    options["network_g"].update(sizes.network, layer_scale_init=0.1)
    options["path"].update(paths)
    options["train"]["optim_g"].update({name: train[name] for name in train if name == "fused"})
    options["train"].update({name: train[name] for name in train if name != "fused"}, idr_pretrain_iter=1)
    return build_model(options)


class OurTraining:
    """Steps of our models on one batch.

    Args:
        kind: ``teacher`` or ``student``.
        options: of the option file's section ``train``; ``fused`` is that of ``optim_g``.
    """

    def __init__(self, kind: str, sizes: Sizes, device: torch.device, **options: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            teacher, weights = Path(folder, "teacher.pth"), Path(folder, "student.pth")
            torch.save({"params": make_teacher(sizes).state_dict()}, teacher)
            torch.save({"params": make_student(sizes).state_dict()}, weights)
            paths = dict(pretrain_network_g=str(teacher))
            if kind == "student":
                paths = dict(pretrain_network_g=str(weights), pretrain_network_teacher=str(teacher))
            self.model = _model(kind, sizes, device, options, paths)
        self.batch = Batch.random(sizes, device)

    def step(self, *, stage: int) -> dict[str, float]:
        """One step; its losses."""
        model, batch = self.model, self.batch
        model.batch = TrainingBatch(batch.lq, batch.gt, batch.prior)
        model.optimize_parameters(stage)
        return dict(model.log_dict)


class PublishedTraining:
    """The same steps as the released code takes them."""

    def __init__(self, kind: str, sizes: Sizes, device: torch.device) -> None:
        teacher = make_teacher(sizes).to(device)
        self.training: Any = TeacherTraining(teacher, lr=LR)
        if kind == "student":
            self.training = StudentTraining(make_student(sizes).to(device), teacher, lr=LR)
        self.all_views = kind == "teacher"
        self.batch = Batch.random(sizes, device)

    def step(self, *, stage: int) -> dict[str, float]:
        """One step; its losses."""
        lq = self.batch.lq if self.all_views else self.batch.lq[:, 0]
        return self.training.step(lq, self.batch.gt, self.batch.prior, stage=stage)
