"""Time of our training, inference and data against the released procedures (``as_published.py``), as a Markdown table.

    python benchmarks/speed.py                                      # all rows, on the CPU
    python benchmarks/speed.py --threads 1 2 --rows inference-256 teacher-1
    python benchmarks/speed.py --device cuda                        # at the paper's batch

Both sides of a row take turns in one process: ours, theirs, ours, ... The ratio is the median of the rounds' ratios
(and the least and the largest), so that a machine that slows down does so for both. Threads and the allocator's
settings (``lightbsr_cli.set_allocator``) are the same for both. The released code runs in float32, contiguous layout,
ours with the defaults of ``lightbsr train`` and ``lightbsr upscale``. Training rows are whole iterations, reading the
data aside: degradation, prior, forward and backward pass, optimizer.

Imitate a CPU without AVX-512 by the variables of PyTorch, oneDNN and MKL:

    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 python benchmarks/speed.py
"""

import argparse
import contextlib
import io
import os
import platform
import re
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import as_published
import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.benchmark import Timer

import lightbsr
import lightbsr_models  # noqa: F401 (registers the models)
from lightbsr.export import to_onnx
from lightbsr.packaged import packaged_options
from lightbsr_arch import LightBSR, LightBSRTeacher
from lightbsr_cli import set_allocator
from lightbsr_compat import InputError, load_options
from lightbsr_data import ClassicDegradation, DegradationPriorDataset, gaussian_kernels, kernel_basis, priors

ITERATIONS = {"teacher-1": 97_000, "teacher-2": 582_000, "student-1": 97_000, "student-2": 582_000}  # the paper's
LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
SCALE = 4


@dataclass(frozen=True)
class Sizes:
    """How large the measured work is; the defaults are for a CPU.

    Attributes:
        batch, lr: images of a training batch, side of their LR patches.
        network: options of the networks; empty for the paper's.
        shrink: divides the sides of the images that are upscaled and read.
        kernels: that the released procedure draws, of 5000.
    """

    batch: int = 4
    lr: int = 32
    network: dict[str, Any] = field(default_factory=dict)
    shrink: int = 1
    kernels: int = 50


PAPER = Sizes(batch=64, lr=64)
_TINY_NETWORK = dict(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=6)
TINY = Sizes(batch=2, lr=16, network=_TINY_NETWORK, shrink=8, kernels=2)


class Pair(NamedTuple):
    """The two sides of a row. One call of ``theirs`` does ``1 / factor`` of the work, in as much of the time."""

    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    factor: float = 1.0


def make_teacher(sizes: Sizes) -> LightBSRTeacher:
    """Random weights; layer scales start at 0.1, so that every block counts."""
    torch.manual_seed(0)
    return LightBSRTeacher(kernel_basis=kernel_basis(), setting="iso", layer_scale_init=0.1, **sizes.network)


def make_student(sizes: Sizes) -> LightBSR:
    torch.manual_seed(1)
    return LightBSR(layer_scale_init=0.1, **sizes.network)


# --- training ---


def our_model(kind: str, sizes: Sizes, device: torch.device, **train_options: Any) -> Any:
    """The BasicSR model of the option file ``lightbsr_{kind}_x4_iso``, with stage 1 of one iteration.

    Args:
        kind: ``teacher`` or ``student``.
        train_options: of the option file's section ``train``.
    """
    from basicsr.models import build_model

    options = load_options(packaged_options()[f"lightbsr_{kind}_x4_iso"])
    options |= dict(is_train=True, dist=False, rank=0, world_size=1, num_gpu=int(device.type == "cuda"))
    options["datasets"]["train"]["batch_size_per_gpu"] = sizes.batch
    options["network_g"] |= sizes.network | dict(layer_scale_init=0.1)
    options["train"] |= dict(idr_pretrain_iter=1, **train_options)
    with tempfile.TemporaryDirectory() as folder:
        paths = dict(teacher=f"{folder}/teacher.pth", student=f"{folder}/student.pth")
        torch.save({"params": make_teacher(sizes).state_dict()}, paths["teacher"])
        torch.save({"params": make_student(sizes).state_dict()}, paths["student"])
        options["path"] |= dict(pretrain_network_g=paths[kind], pretrain_network_teacher=paths["teacher"])
        return build_model(options)


def training_batch(kind: str, sizes: Sizes) -> dict[str, Tensor]:
    """As of ``DegradationPriorDataset`` in setting iso: four views of an image for the teacher, one for the student."""
    generator, side = torch.Generator().manual_seed(2), SCALE * sizes.lr
    size = (sizes.batch, 4 if kind == "teacher" else 1, 3, side, side)
    gt = torch.randint(256, size, generator=generator, dtype=torch.uint8)
    sigma = torch.linspace(0.5, 3.8, sizes.batch)
    kernel = gaussian_kernels(sigma, sigma, torch.zeros(sizes.batch))  # (B, 21, 21)
    return dict(gt=gt, kernel=kernel, noise_sigma=torch.zeros(sizes.batch))


def training(kind: str, stage: int, sizes: Sizes, device: torch.device, **train_options: Any) -> Pair:
    """One iteration of either training; both return their losses by name."""
    batch, model = training_batch(kind, sizes), our_model(kind, sizes, device, **train_options)
    teacher = make_teacher(sizes).to(device)
    released: Any = as_published.TeacherTraining(teacher, lr=2e-4)
    if kind == "student":
        released = as_published.StudentTraining(make_student(sizes).to(device), teacher, lr=2e-4)

    def ours() -> dict[str, float]:
        model.feed_data(batch)
        model.optimize_parameters(stage)  # iteration 1 is stage 1, iteration 2 stage 2
        return dict(model.log_dict)

    def theirs() -> dict[str, float]:
        gt, kernel = batch["gt"].to(device).float() / 255.0, batch["kernel"].to(device)
        lq = as_published.degrade(gt, kernel, None, scale=SCALE)
        prior = kernel.flatten(1) @ teacher.kernel_basis
        return released.step(lq if kind == "teacher" else lq[:, 0], gt[:, 0], prior, stage=stage)

    return Pair(ours, theirs)


# --- inference ---


def random_image(height: int, width: int, sizes: Sizes) -> np.ndarray:
    """A smooth RGB picture with a little noise, (height, width, 3) uint8, both sides shrunk."""
    random, size = np.random.RandomState(0), (width // sizes.shrink, height // sizes.shrink)
    smooth = cv2.resize(random.uniform(0, 255, (8, 12, 3)), size)
    return (smooth + random.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8)


def on_image(run: Callable[[Tensor], Tensor], image: np.ndarray, device: torch.device) -> np.ndarray:
    """Super-resolve an image (h, w, 3) uint8 by a function of tensors (1, 3, h, w) in [0, 1]."""
    with torch.inference_mode():
        lq = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float() / 255.0
        sr = run(lq.contiguous())[0]
        return (sr.clamp(0, 1) * 255.0).round().byte().permute(1, 2, 0).cpu().numpy()


def inference(side: int, sizes: Sizes, device: torch.device, precision: str = "fp32") -> Pair:
    """``lightbsr.Upscaler`` as ``lightbsr upscale`` calls it."""
    network, image = make_student(sizes), random_image(side, side, sizes)
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"params": network.state_dict()}, f"{folder}/student.pth")
        upscaler = lightbsr.Upscaler(f"{folder}/student.pth", device=device, precision=precision)
    released = as_published.plain(network).to(device).eval()
    return Pair(partial(upscaler, image), partial(on_image, released, image, device))


def peer(side: int, sizes: Sizes, device: torch.device) -> Pair:
    """``lightbsr upscale`` by default against the network of realesr-general-x4v3, with random weights."""
    from basicsr.archs.srvgg_arch import SRVGGNetCompact

    network = SRVGGNetCompact(num_feat=64, num_conv=32, upscale=4, act_type="prelu").to(device).eval()
    image = random_image(side, side, sizes)
    return Pair(partial(lightbsr.Upscaler(device=device), image), partial(on_image, network, image, device))


def onnx_runtime(model: bytes) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda lq: session.run(None, {"lq": lq})[0]


def openvino(model: bytes) -> Callable[[np.ndarray], np.ndarray]:
    from openvino import Core

    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    options["SNIPPETS_MODE"] = "DISABLE"  # OpenVINO 2026.4 crashes where it fuses the MLPs of successive IDR-CBs
    compiled = Core().compile_model(Core().read_model(model, b""), "CPU", options)
    return lambda lq: compiled(lq)[0]


def exported_inference(load: Callable[[bytes], Any], side: int, sizes: Sizes, device: torch.device) -> Pair:
    """The network as an ONNX model in another runtime."""
    if device.type != "cpu":
        raise InputError("runs on the CPU alone")
    network, image = make_student(sizes).eval(), random_image(side, side, sizes)
    example, axes = torch.zeros(1, 3, 16, 20), {"lq": {2: "height", 3: "width"}}
    run = load(to_onnx(network, [example], input_names=["lq"], output_names=["sr"], dynamic=axes))
    sides = (lambda lq: torch.from_numpy(run(lq.numpy())), as_published.plain(network))
    return Pair(*(partial(on_image, one, image, device) for one in sides))


# --- data ---


def degradation(sizes: Sizes, device: torch.device) -> Pair:
    batch = training_batch("teacher", sizes)
    gt, kernel = batch["gt"].to(device).float() / 255.0, batch["kernel"].to(device)
    ours = partial(ClassicDegradation(scale=SCALE), gt, kernel, None)
    return Pair(ours, partial(as_published.degrade, gt, kernel, None, scale=SCALE))


def basis(sizes: Sizes, device: torch.device) -> Pair:
    def ours() -> None:
        priors._cached_basis.cache_clear()
        kernel_basis()

    return Pair(ours, lambda: as_published.project(as_published.draw_kernels(sizes.kernels)), 5000 / sizes.kernels)


def reading(sizes: Sizes, device: torch.device) -> Pair:
    """Four views of an image: from an LMDB of 480x480 tiles, and from the PNG file of the whole 2K image."""
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    folder = tempfile.TemporaryDirectory()
    image, tile = random_image(1356, 2040, sizes), 480 // sizes.shrink
    gt_size = min(SCALE * sizes.lr, tile)
    places = [(top, left) for top in range(0, tile + 1, tile) for left in range(0, 3 * tile + 1, tile)]
    whole, lmdb = Path(folder.name, "whole.png"), f"{folder.name}/tiles.lmdb"
    cv2.imwrite(str(whole), image)
    for i, (top, left) in enumerate(places):
        cv2.imwrite(f"{folder.name}/{i}.png", image[top : top + tile, left : left + tile])
    names = [str(i) for i in range(len(places))]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # a progress bar
        make_lmdb_from_imgs(folder.name, lmdb, [f"{name}.png" for name in names], names, map_size=2**31)
    options: dict[str, Any] = dict(dataroot_gt=lmdb, io_backend=dict(type="lmdb"), scale=SCALE, gt_size=gt_size)
    options |= dict(num_views=4, degradation="iso", use_hflip=False, use_rot=False)
    dataset, indices = DegradationPriorDataset(options), cycle(range(len(names)))

    def ours() -> None:
        assert folder  # which lives as long as the dataset is read
        dataset[next(indices)]

    return Pair(ours, lambda: as_published.read_views(whole, gt_size, places[:4]))


# --- the table ---

ROWS: dict[str, tuple[str, Callable[[Sizes, torch.device], Pair]]] = {
    "inference-128": ("inference, 128x128", partial(inference, 128)),
    "inference-256": ("inference, 256x256", partial(inference, 256)),
    "bf16-128": ("inference, 128x128, --precision bf16", partial(inference, 128, precision="bf16")),
    "bf16-256": ("inference, 256x256, --precision bf16", partial(inference, 256, precision="bf16")),
    "onnx-256": ("inference, 256x256, ONNX Runtime", partial(exported_inference, onnx_runtime, 256)),
    "openvino-256": ("inference, 256x256, OpenVINO", partial(exported_inference, openvino, 256)),
    "peer-512": ("default weights, 512x512; theirs: realesr-general-x4v3's network", partial(peer, 512)),
    "teacher-1": ("teacher, stage 1", partial(training, "teacher", 1)),
    "teacher-2": ("teacher, stage 2", partial(training, "teacher", 2)),
    "student-1": ("student, stage 1", partial(training, "student", 1)),
    "student-2": ("student, stage 2", partial(training, "student", 2)),
    "contiguous": ("student, stage 2, channels_last: false", partial(training, "student", 2, channels_last=False)),
    "bf16": ("student, stage 2, amp: bf16", partial(training, "student", 2, amp="bf16")),
    "checkpointing": ("student, stage 2, checkpointing: true", partial(training, "student", 2, checkpointing=True)),
    "compile": ("student, stage 2, compile: true", partial(training, "student", 2, compile=True)),
    "degradation": ("degradation of a batch", degradation),
    "kernel-basis": ("kernel basis", basis),
    "reading": ("four views of an image: LMDB of tiles, 2K PNG", reading),
}


def measure(pair: Pair, *, rounds: int, least: float) -> list[tuple[float, float]]:
    """Seconds of one call of ours and of theirs in each round, which lasts ``least`` seconds or one call a side."""
    timers = [Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads()) for run in pair[:2]]
    times = [[timer.blocked_autorange(min_run_time=least).median for timer in timers] for _ in range(rounds)]
    return [(ours, theirs * pair.factor) for ours, theirs in times]


def whole_training(times: dict[str, list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Hours of teacher and student with the paper's iterations, of ours and of theirs in each round."""
    seconds = np.array([times[row] for row in ITERATIONS])  # (rows, rounds, 2)
    return (np.einsum("r,rns->ns", list(ITERATIONS.values()), seconds) / 3600).tolist()


def table_row(title: str, times: list[tuple[float, float]], unit: str) -> str:
    ours, theirs = map(statistics.median, zip(*times, strict=True))
    ratios = sorted(ours / theirs for ours, theirs in times)
    ratio = f"{statistics.median(ratios):.3g} ({ratios[0]:.3g}-{ratios[-1]:.3g})"
    return f"| {title} | {ours:.3g} {unit} | {theirs:.3g} {unit} | {ratio} |"


def describe(device: torch.device, sizes: Sizes) -> str:
    """The machine, its instructions, threads, version and sizes in one line."""
    if device.type == "cuda":
        machine = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    else:
        cpuinfo = Path("/proc/cpuinfo")
        names = re.findall(r"model name\s*: (.+)", cpuinfo.read_text(encoding="utf-8")) if cpuinfo.exists() else []
        bf16 = "with" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "without"
        machine = f"{[*names, platform.processor()][0]}, {torch.backends.cpu.get_cpu_capability()} {bf16} bf16"
    limits = [f"{name}={value}" for name, value in os.environ.items() if name in LIMITS]
    versions = [f"{torch.get_num_threads()} threads", f"PyTorch {torch.__version__}"]
    return ", ".join([machine, *limits, *versions]) + f"; batch {sizes.batch}, LR patches {sizes.lr}x{sizes.lr}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--threads", nargs="+", type=int, default=[torch.get_num_threads()], help="a table for each")
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round, whose ratios mean nothing")
    args = parser.parse_args(arguments)
    sizes = TINY if args.quick else PAPER if args.device.type == "cuda" else Sizes()
    rounds, least = (1, 0.0) if args.quick else (args.rounds, 0.5)
    for threads in args.threads:
        torch.set_num_threads(threads)
        print(f"\n{describe(args.device, sizes)}\n\n| work | ours | as released | ratio |\n|---|---|---|---|")
        times = {}
        for row in args.rows:
            title, make = ROWS[row]
            try:
                times[row] = measure(make(sizes, args.device), rounds=rounds, least=least)
                print(table_row(title, times[row], "s"), flush=True)
            except (ImportError, InputError) as error:  # an optional package, or no compiler
                print(f"| {title} | not measured: {error} | | |", flush=True)
        if ITERATIONS.keys() <= times.keys():
            print(table_row("whole training, 97k + 582k iterations each", whole_training(times), "h"))


if __name__ == "__main__":
    set_allocator()
    main()
