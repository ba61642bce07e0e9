"""Declarations of the ``datasets`` sections of an option file.

``lightbsr check`` reads them, and the JSON schema that editors complete option files from is made of them.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from lightbsr_compat import InputError

from .option_types import Count, FileName, Number, Path, Probability, Range, Section
from .second_order import SecondOrderOptions
from .settings import get_setting


def _name_or_mapping(value: Any) -> Any:
    if not isinstance(value, (str, dict)):
        raise ValueError("must be the name of a setting, or its ranges")
    return value


Setting = Annotated[Any, AfterValidator(_name_or_mapping), WithJsonSchema({"type": ["string", "object"]})]


class IOBackend(Section):
    """Where images are read from."""

    type: Literal["disk", "lmdb"]
    """``disk``: a folder of image files; ``lmdb``: a folder that ``lightbsr prepare`` made."""


class FixedDegradation(Section):
    """One degradation of a benchmark; ``parse_fixed_degradation`` says which entries go together."""

    sigma: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Width of an isotropic Gaussian kernel in HR pixels."""
    sigma_x: Annotated[float, Field(gt=0, le=1000)] | None = None
    sigma_y: Annotated[float, Field(gt=0, le=1000)] | None = None
    theta: Number | None = None
    """Angle of an anisotropic kernel in degrees."""
    noise_sigma: Annotated[float, Field(ge=0, le=255)] | None = None
    """Standard deviation of the noise on the 0-255 scale."""
    downsample: str | None = None
    """``bicubic`` (the default), or another way of making an image smaller."""
    jpeg: Annotated[int, Field(ge=1, le=100)] | None = None
    """JPEG quality; ~ for none."""


class DatasetOptions(Section):
    """A data set of any kind.

    Class attributes:
        in_training: options that a data set for training cannot do without.
    """

    in_training: ClassVar[tuple[str, ...]] = ("batch_size_per_gpu", "num_worker_per_gpu")

    name: FileName
    """Name in logs and of the folder of its pictures."""
    type: str
    batch_size_per_gpu: Count | None = None
    """Images a process takes in one iteration."""
    num_worker_per_gpu: Annotated[int, Field(ge=0, le=1024)] | None = None
    """Processes that read images, for each training process."""
    dataset_enlarge_ratio: Annotated[float, Field(gt=0, le=2**20)] | None = None
    """How often an image is taken in one epoch."""
    pin_memory: bool | None = None
    persistent_workers: bool | None = None
    prefetch_mode: Literal["cpu", "cuda"] | None = None
    """Load batches ahead: in a thread (``cpu``) or onto the GPU (``cuda``)."""
    num_prefetch_queue: Count | None = None


class ImageOptions(DatasetOptions):
    """A data set of images in a folder or an LMDB."""

    io_backend: IOBackend


class PatchOptions(ImageOptions):
    """HR patches with random flips."""

    gt_size: Count | None = None
    """Side of an HR patch in pixels, a multiple of the scale."""
    use_hflip: bool | None = None
    """Random horizontal flips."""
    use_rot: bool | None = None
    """Random vertical flips and transposes."""


class DegradationPriorOptions(PatchOptions):
    """``DegradationPriorDataset``: HR patches with one random degradation an image."""

    dataroot_gt: Path
    """Folder or LMDB of HR images."""
    meta_info_file: Path | None = None
    """With ``disk``: a file with the name of an image on every line."""
    gt_size: Count
    """Side of an HR patch in pixels, a multiple of the scale."""
    num_views: Annotated[int, Field(ge=1, le=64)]
    """Views D of an image: 4 for LightBSR's teacher, 1 otherwise."""
    degradation: Setting
    """Name of a setting, such as ``iso``, or its ranges: ``{isotropic: true, sigma: [0.5, 2.0]}``."""

    @model_validator(mode="after")
    def _check(self) -> "DegradationPriorOptions":
        get_setting(self.degradation)
        return self


class BlindBenchmarkOptions(ImageOptions):
    """``BlindBenchmarkDataset``: whole HR images and their LR images under one fixed degradation."""

    dataroot_gt: Path
    """Folder or LMDB of HR images."""
    meta_info_file: Path | None = None
    degradation: FixedDegradation


class _Normalised(ImageOptions):
    mean: list[Number] | None = None
    std: list[Number] | None = None


class PairedImageOptions(_Normalised, PatchOptions):
    """BasicSR's ``PairedImageDataset`` and ``RealESRGANPairedDataset``: LR and HR images."""

    in_training = (*DatasetOptions.in_training, "gt_size", "use_hflip", "use_rot")

    dataroot_gt: Path
    dataroot_lq: Path
    meta_info_file: Path | None = None
    meta_info: Path | None = None
    """As ``meta_info_file``, of ``RealESRGANPairedDataset``."""
    filename_tmpl: str | None = None
    """Name of the LR image: ``{}x4`` for ``a.png`` and ``ax4.png``."""
    color: str | None = None


class SingleImageOptions(_Normalised):
    """BasicSR's ``SingleImageDataset``: LR images alone."""

    dataroot_lq: Path
    meta_info_file: Path | None = None
    color: str | None = None


class RealESRGANOptions(PatchOptions):
    """BasicSR's ``RealESRGANDataset``: HR images and three random kernels each."""

    dataroot_gt: Path
    meta_info: Path | None = None
    """With ``disk``: a file with the name of an image on every line."""
    degradation: str | None = None
    """LightBSR and KDSR: ``real_world``, Real-ESRGAN's second-order degradation."""
    num_views: Annotated[int, Field(ge=1, le=64)] | None = None
    pool_size: Annotated[int, Field(ge=0, le=2**20)] | None = None
    """Images that batches are mixed through, a multiple of ``batch_size_per_gpu``; 0 for none."""
    second_order: SecondOrderOptions | None = None
    blur_kernel_size: Count
    kernel_list: list[str]
    kernel_prob: list[Probability]
    sinc_prob: Probability
    blur_sigma: Range
    betag_range: Range
    betap_range: Range
    blur_kernel_size2: Count
    kernel_list2: list[str]
    kernel_prob2: list[Probability]
    sinc_prob2: Probability
    blur_sigma2: Range
    betag_range2: Range
    betap_range2: Range
    final_sinc_prob: Probability
    use_hflip: bool
    use_rot: bool

    @model_validator(mode="after")
    def _check(self) -> "RealESRGANOptions":
        if self.io_backend.type == "disk" and self.meta_info is None:
            raise InputError(
                "meta_info is missing: io_backend disk needs it, a file with the name of an image on every line"
            )
        for number in ("", "2"):
            kernels, weights = getattr(self, f"kernel_list{number}"), getattr(self, f"kernel_prob{number}")
            if len(kernels) != len(weights) or not sum(weights):
                raise InputError(f"kernel_prob{number} is {weights}, but must have a weight for each of {kernels}")
        return self


class FFHQOptions(ImageOptions):
    """BasicSR's ``FFHQDataset``."""

    dataroot_gt: Path
    mean: list[Number]
    std: list[Number]
    use_hflip: bool
    gt_size: Count | None = None


class VideoOptions(ImageOptions):
    """BasicSR's video data sets; what else they read is passed on."""

    in_training = (*DatasetOptions.in_training, "gt_size", "num_frame", "meta_info_file")

    dataroot_gt: Path
    dataroot_lq: Path
    dataroot_flow: Path | None = None
    meta_info_file: Path | None = None
    num_frame: Annotated[int, Field(ge=-1, le=2**20)] | None = None
    """Frames of a clip; -1 for all."""
    gt_size: Count | None = None


# By the name of the class, as BasicSR registers it.
DATASETS: dict[str, type[DatasetOptions]] = {
    "DegradationPriorDataset": DegradationPriorOptions,
    "BlindBenchmarkDataset": BlindBenchmarkOptions,
    "PairedImageDataset": PairedImageOptions,
    "RealESRGANPairedDataset": PairedImageOptions,
    "SingleImageDataset": SingleImageOptions,
    "RealESRGANDataset": RealESRGANOptions,
    "FFHQDataset": FFHQOptions,
    **dict.fromkeys(
        ("REDSDataset", "REDSRecurrentDataset", "Vimeo90KDataset", "Vimeo90KRecurrentDataset"), VideoOptions
    ),
    **dict.fromkeys(("VideoTestDataset", "VideoTestVimeo90KDataset", "VideoTestDUFDataset"), VideoOptions),
    "VideoRecurrentTestDataset": VideoOptions,
}
