"""Declarations of the ``datasets`` sections of an option file, and the types that all declarations share.

``lightbsr check`` reads them, and the JSON schema that editors complete option files from is made of them.
"""

import unicodedata
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from lightbsr_compat import InputError

from .settings import get_setting

MAX_NAME_BYTES = 100


def _file_name(name: str) -> str:
    has_control = any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name)
    if has_control or name in ("", ".", "..") or "/" in name or "\\" in name or not _fits(name):
        raise ValueError(
            f"must be a file name of at most {MAX_NAME_BYTES} bytes, without / and \\ and control characters"
        )
    return name


def _fits(name: str) -> bool:
    return len(name.encode("utf-8", "surrogatepass")) <= MAX_NAME_BYTES


def _path(path: str) -> str:
    if not path or "\0" in path:
        raise ValueError("must be a path")
    return path


def whole(value: Any) -> Any:
    """5000.0 as 5000; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _ascending(values: list[float]) -> list[float]:
    if values[0] > values[1]:
        raise ValueError("must be [low, high] with low <= high")
    return values


def _name_or_mapping(value: Any) -> Any:
    if not isinstance(value, (str, dict)):
        raise ValueError("must be the name of a setting, or its ranges")
    return value


FileName = Annotated[str, AfterValidator(_file_name)]
"""A name that becomes part of a path: of runs, data sets, suffixes of pictures."""
Path = Annotated[str, AfterValidator(_path)]
Count = Annotated[int, Field(ge=1, le=2**20)]
Iterations = Annotated[int, BeforeValidator(whole), Field(ge=1, le=2**40)]
"""A number of iterations; ``5e3`` is 5000, as BasicSR's own option files write it."""
Number = Annotated[float, Field(ge=-1e30, le=1e30)]
NonNegative = Annotated[float, Field(ge=0, le=1e30)]
Positive = Annotated[float, Field(gt=0, le=1e30)]
Probability = Annotated[float, Field(ge=0, le=1)]
Setting = Annotated[Any, AfterValidator(_name_or_mapping), WithJsonSchema({"type": ["string", "object"]})]
Range = Annotated[list[NonNegative], Field(min_length=2, max_length=2), AfterValidator(_ascending)]


class Section(BaseModel):
    """A section of an option file: unknown names, numbers given as text and numbers that are not finite are errors."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )


class DerivedSection(Section):
    """Base of declarations that are made from signatures, which have no docstrings beneath their fields."""

    model_config = ConfigDict(use_attribute_docstrings=False)


@dataclass(frozen=True)
class Registered:
    """Marks a section whose ``type`` names a class or function: its other options are those of that type.

    Attributes:
        kind: ``dataset``, ``arch``, ``loss``, ``metric``, ``optimizer`` or ``scheduler``.
        many: whether the section holds several such sections by name.
    """

    kind: str
    many: bool = False

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"registered": self.kind, "many": self.many}  # lightbsr.training.schema puts the types' options here


class IOBackend(Section):
    """Where images are read from."""

    type: Literal["disk", "lmdb"]
    """``disk``: a folder of image files; ``lmdb``: a folder that ``lightbsr prepare`` made."""


class OrderRanges(Section):
    """What one of the two degradations of Real-ESRGAN (ICCVW 2021, Sec. 3) is drawn from."""

    model_config = ConfigDict(frozen=True)

    blur_prob: Probability
    resize_prob: Annotated[list[NonNegative], Field(min_length=3, max_length=3)]
    """Weights of enlarging, shrinking and keeping the size."""
    resize_range: Range
    """Factor, from below to above 1."""
    gaussian_noise_prob: Probability
    """Poisson noise otherwise."""
    noise_range: Range
    """Standard deviation on the 0-255 scale."""
    poisson_scale_range: Range
    """Factor of the Poisson noise."""
    gray_noise_prob: Probability
    """Probability that an image's noise is the same in all channels."""
    jpeg_range: Range
    """JPEG quality, 1-99."""

    @model_validator(mode="after")
    def _check(self) -> "OrderRanges":
        low, high = self.resize_range
        if not 0 < low <= 1 <= high:
            raise InputError(f"resize_range is {self.resize_range}, but must reach from below to above 1")
        if not sum(self.resize_prob):
            raise InputError(f"resize_prob is {self.resize_prob}, but one weight must be above 0")
        # At quality 100 BasicSR's JPEG divides by zero.
        if not 1 <= self.jpeg_range[0] <= self.jpeg_range[1] <= 99:
            raise InputError(f"jpeg_range is {self.jpeg_range}, but a JPEG quality lies in [1, 99]")
        return self


# Real-ESRGAN's published option files.
FIRST_ORDER = OrderRanges(
    blur_prob=1.0,
    resize_prob=[0.2, 0.7, 0.1],
    resize_range=[0.15, 1.5],
    gaussian_noise_prob=0.5,
    noise_range=[1, 30],
    poisson_scale_range=[0.05, 3],
    gray_noise_prob=0.4,
    jpeg_range=[30, 95],
)
SECOND_ORDER = OrderRanges(
    blur_prob=0.8,
    resize_prob=[0.3, 0.4, 0.3],
    resize_range=[0.3, 1.2],
    gaussian_noise_prob=0.5,
    noise_range=[1, 25],
    poisson_scale_range=[0.05, 2.5],
    gray_noise_prob=0.4,
    jpeg_range=[30, 95],
)


def _completed(ranges: OrderRanges) -> BeforeValidator:
    """Take what a section leaves out from ``ranges``."""
    return BeforeValidator(lambda given: {**vars(ranges), **given} if isinstance(given, dict) else given)


class SecondOrderOptions(Section):
    """Both degradations of Real-ESRGAN; what is left out is the paper's."""

    first: Annotated[OrderRanges, _completed(FIRST_ORDER)] = FIRST_ORDER
    second: Annotated[OrderRanges, _completed(SECOND_ORDER)] = SECOND_ORDER


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
