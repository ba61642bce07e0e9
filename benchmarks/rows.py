"""The rows of the benchmark: for each the released procedure and ours, ready to be called in turns."""

import contextlib
import functools
import inspect
import io
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import as_published
import cv2
import numpy as np
import torch
from jobs import OurTraining, PublishedTraining, Sizes, make_student
from machine import Elsewhere
from torch import Tensor

from lightbsr.upscaling.memory import keep_freed_memory
from lightbsr.upscaling.upscaler import Upscaler
from lightbsr_compat import InputError
from lightbsr_data import ClassicDegradation, DegradationPriorDataset, gaussian_kernels, kernel_basis, priors

PUBLISHED, OURS = "as published", "ours"
SUB_IMAGE, SUB_IMAGE_STEP = 480, 240  # BasicSR's extract_subimages


@dataclass
class Forms:
    """What takes turns; the first is what the others are compared with.

    Attributes:
        functions: by name.
        factors: what a form's seconds are to be multiplied with, where it does but a part of the work.
        missing: why a form cannot be measured here, by its name.
        has_products: whether convolutions and matrix products are counted, for the fraction of the ceiling.
        hidden: forms that do the products of the first one where they cannot be counted: in compiled graphs, other
            engines, other processes.
        keep: what must live as long as the functions do.
    """

    functions: dict[str, Callable[[], Any]]
    factors: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    has_products: bool = True
    hidden: set[str] = field(default_factory=set)
    keep: Any = None


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        title: what the table says.
        make: makes the forms.
        targets: the ratio to reach of each form but the first.
        devices: where it makes sense.
    """

    title: str
    make: Callable[[Sizes, torch.device], Forms]
    targets: dict[str, float] = field(default_factory=dict)
    devices: tuple[str, ...] = ("cpu", "cuda")


# --- training ---


def _training(kind: str, stage: int, sizes: Sizes, device: torch.device) -> Forms:
    published, ours = PublishedTraining(kind, sizes, device), OurTraining(kind, sizes, device)
    forms = {PUBLISHED: published, OURS: ours}
    return Forms({name: functools.partial(form.step, stage=stage) for name, form in forms.items()})


# Of the option file's section train, but for fused, which is optim_g's. "off" has all of them off.
OPTIONS: dict[str, dict[str, Any]] = {
    "off": {},
    "channels_last": dict(channels_last=True),
    "amp: bf16": dict(amp="bf16"),
    "amp: fp16": dict(amp="fp16"),
    "amp: bf16 + channels_last": dict(amp="bf16", channels_last=True),
    "checkpointing": dict(checkpointing=True),
    "compile": dict(compile=True),
    "fused": dict(fused=True),
}


def _options(names: Iterable[str], sizes: Sizes, device: torch.device) -> Forms:
    """Steps of the student's stage 2 under the options of these names."""
    missing = {"amp: fp16": "left out on a CPU, which is slow in float16"} if device.type == "cpu" else {}
    made = {
        name: OurTraining("student", sizes, device, **{"channels_last": False, "fused": False, **OPTIONS[name]})
        for name in names
        if name not in missing
    }
    steps: dict[str, Callable[[], Any]] = {n: functools.partial(t.step, stage=2) for n, t in made.items()}
    return Forms(steps, missing=missing, hidden={"compile"})


# --- data ---


def _degradation(sizes: Sizes, device: torch.device) -> Forms:
    torch.manual_seed(0)
    side = 4 * sizes.lr
    gt = torch.rand(sizes.batch, sizes.views, 3, side, side, device=device)
    widths = torch.linspace(0.5, 3.8, sizes.batch)
    kernel = gaussian_kernels(widths, widths.flip(0), widths).to(device)
    noise_sigma = torch.zeros(sizes.batch, device=device)
    degradation = ClassicDegradation(scale=4)
    return Forms(
        {
            PUBLISHED: lambda: as_published.degrade(gt, kernel, None, scale=4),
            OURS: lambda: degradation(gt, kernel, noise_sigma),
        }
    )


def _kernel_basis(sizes: Sizes, device: torch.device) -> Forms:
    def published() -> None:
        as_published.project(as_published.draw_kernels(sizes.drawn_kernels))

    def ours() -> None:
        priors._cached_basis.cache_clear()
        kernel_basis()

    factor = sizes.kernels / sizes.drawn_kernels
    return Forms({PUBLISHED: published, OURS: ours}, factors={PUBLISHED: factor}, has_products=False)


def _data(sizes: Sizes, device: torch.device) -> Forms:
    """D views of one image: from a PNG file of a whole image, and from an LMDB of sub-images."""
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    folder = tempfile.TemporaryDirectory()
    root, sub_images = Path(folder.name), Path(folder.name, "sub_images")
    sub_images.mkdir()
    random = np.random.RandomState(0)
    height, width = sizes.hr_image
    smooth = cv2.resize(random.uniform(0, 255, (height // 40, width // 40, 3)), (width, height))
    image = (smooth + random.normal(0, 4, (height, width, 3))).clip(0, 255).astype(np.uint8)
    cv2.imwrite(str(root / "whole.png"), image)
    size = min(SUB_IMAGE, height, width)
    for i, top in enumerate(range(0, height - size + 1, SUB_IMAGE_STEP)):
        for j, left in enumerate(range(0, width - size + 1, SUB_IMAGE_STEP)):
            cv2.imwrite(str(sub_images / f"{i:02}_{j:02}.png"), image[top : top + size, left : left + size])
    names = sorted(path.stem for path in sub_images.iterdir())
    files = [f"{name}.png" for name in names]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # a progress bar
        make_lmdb_from_imgs(str(sub_images), str(root / "sub_images.lmdb"), files, names, map_size=2**31)
    gt_size = 4 * sizes.lr
    options = dict(dataroot_gt=str(root / "sub_images.lmdb"), io_backend=dict(type="lmdb"), scale=4)
    dataset = DegradationPriorDataset(
        options | dict(gt_size=gt_size, num_views=sizes.views, degradation="iso", use_hflip=False, use_rot=False)
    )
    count = len(names)
    places = random.randint(0, min(height, width) - gt_size + 1, (sizes.views, 2)).tolist()

    def published() -> None:
        as_published.read_views(root / "whole.png", gt_size, places)

    def ours() -> None:
        for i in range(count):
            dataset[i]

    return Forms({PUBLISHED: published, OURS: ours}, factors={OURS: 1 / count}, has_products=False, keep=folder)


# --- inference ---


def _image(sizes: Sizes) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (sizes.image, sizes.image, 3), dtype=np.uint8)


def _weights(sizes: Sizes, folder: str) -> str:
    path = str(Path(folder, "student.pth"))
    torch.save({"params": make_student(sizes).state_dict()}, path)
    return path


def _from_image_to_image(
    network: Callable[[Tensor], Tensor], layout: torch.memory_format, sizes: Sizes, device: torch.device
) -> Callable[[], np.ndarray]:
    """What has to be done besides the network: from a picture of bytes to one."""
    image = _image(sizes)

    @torch.inference_mode()
    def upscale() -> np.ndarray:
        lq = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float() / 255.0
        sr = network(lq.contiguous(memory_format=layout))[0].float()
        return (sr.clamp(0, 1) * 255.0).round().byte().permute(1, 2, 0).cpu().numpy()

    return upscale


def _published_upscaling(sizes: Sizes, device: torch.device) -> Callable[[], np.ndarray]:
    network = as_published.plain(make_student(sizes)).to(device).eval()
    return _from_image_to_image(network, torch.contiguous_format, sizes, device)


def _upscaler(sizes: Sizes, device: torch.device, **options: str) -> Callable[[], np.ndarray]:
    """``Upscaler`` with these options.

    Raises:
        InputError: it does not have them, or cannot use them here.
    """
    known = inspect.signature(Upscaler).parameters
    for name, value in options.items():
        if name not in known:
            raise InputError(f"Upscaler has no {name} {value}")
    with tempfile.TemporaryDirectory() as folder:
        upscaler = Upscaler(_weights(sizes, folder), device=str(device), **options)  # type: ignore[arg-type]
    image = _image(sizes)
    return lambda: upscaler(image)


def upscale_as_the_command(sizes: Sizes, device: torch.device) -> Callable[[], np.ndarray]:
    """``Upscaler`` in a process that keeps freed memory, which this becomes, as that of ``lightbsr upscale`` does."""
    keep_freed_memory()
    return _upscaler(sizes, device)


def _compiled(sizes: Sizes, device: torch.device) -> Callable[[], np.ndarray]:
    """bfloat16, channels last and compiled."""
    network = make_student(sizes).to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    compiled = torch.compile(network)

    def run(lq: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return compiled(lq)

    return _from_image_to_image(run, torch.channels_last, sizes, device)


_HIDDEN_INFERENCE = {"in the process of lightbsr upscale", "engine onnx", "engine openvino", "bf16, compiled"}


def _inference(sizes: Sizes, device: torch.device) -> Forms:
    """The released network and ways that ``lightbsr upscale`` offers; on a GPU a compiled one too, which it lacks."""
    forms = Forms({PUBLISHED: _published_upscaling(sizes, device)}, hidden=_HIDDEN_INFERENCE)
    ways: dict[str, dict[str, str]] = {"step by step": {}}
    if device.type == "cpu":
        forms.functions["in the process of lightbsr upscale"] = Elsewhere("--serve-command", "--sizes", sizes.name)
        ways |= {"engine onnx": dict(engine="onnx"), "engine openvino": dict(engine="openvino")}
    else:
        ways |= {"bf16": dict(precision="bf16"), "fp16": dict(precision="fp16")}
        forms.functions["bf16, compiled"] = _compiled(sizes, device)
    for name, options in ways.items():
        try:
            forms.functions[name] = _upscaler(sizes, device, **options)
        except InputError as error:
            forms.missing[name] = str(error)
    return forms


ROWS: dict[str, Row] = {
    "teacher-stage-1": Row("teacher stage 1 step", functools.partial(_training, "teacher", 1), {OURS: 0.6}),
    "teacher-stage-2": Row("teacher stage 2 step", functools.partial(_training, "teacher", 2), {OURS: 0.5}),
    "student-stage-1": Row("student stage 1 step", functools.partial(_training, "student", 1), {OURS: 0.03}),
    "student-stage-2": Row("student stage 2 step", functools.partial(_training, "student", 2), {OURS: 0.45}),
    "degradation": Row("degradation of B x D patches", _degradation, {OURS: 0.4}),
    "kernel-basis": Row("kernel basis", _kernel_basis, {OURS: 0.01}, ("cpu",)),
    "data": Row("an image's views: LMDB of sub-images, PNG file of 2K", _data, {OURS: 0.2}, ("cpu",)),
    "inference": Row(
        "inference",
        _inference,
        # The best path offered is to reach 0.5 on the CPU, 0.2 on a GPU.
        {
            "step by step": 0.6,
            "in the process of lightbsr upscale": 0.5,
            "engine onnx": 0.5,
            "engine openvino": 0.5,
            "bf16": 0.2,
            "fp16": 0.2,
            "bf16, compiled": 0.2,
        },
    ),
    "training-bf16": Row(
        "student stage 2 step against float32, channels first",
        functools.partial(_options, ("off", "amp: bf16 + channels_last")),
        {"amp: bf16 + channels_last": 0.35},
        ("cuda",),
    ),
    "options": Row("options of training", functools.partial(_options, OPTIONS)),
}
