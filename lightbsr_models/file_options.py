"""Declarations of whole option files, by model, and of their sections ``path``, ``val``, ``logger``, ``dist_params``.

The options of a network are those of its constructor.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from lightbsr_data.option_types import Count, FileName, Iterations, Path, Registered, Section

from .options import (
    GANTrainOptions,
    KDSRGANTrainOptions,
    KDSRStudentTrainOptions,
    KDSRTeacherTrainOptions,
    StudentTrainOptions,
    TeacherTrainOptions,
    TrainOptions,
    TwoStageTrainOptions,
)


def _gpus(value: Any) -> Any:
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1024):
        raise ValueError("must be a number of GPUs, 0 for the CPU, or auto")
    return value


Gpus = Annotated[
    Any,
    AfterValidator(_gpus),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0, "maximum": 1024}, {"const": "auto"}]}),
]
OptionalNetwork = Annotated[dict[str, Any] | None, Registered("arch")]


class PathOptions(Section):
    """Checkpoints to start from."""

    pretrain_network_g: Path | None = None
    param_key_g: str | None = None
    """``params`` or ``params_ema``, the averaged weights."""
    strict_load_g: bool | None = None
    resume_state: Path | None = None
    """A training state to go on from; ``--auto_resume`` finds the newest."""
    ignore_resume_networks: list[str] | None = None


class StudentPathOptions(PathOptions):
    """Checkpoints of a student."""

    pretrain_network_teacher: Path | None = None
    """Checkpoint of the teacher that the student is distilled from."""
    param_key_teacher: str | None = None
    start_from_teacher: Literal["all", "all_but_estimator", "sr_network"] | None = None
    """Parts of the teacher that the student starts with, where ``pretrain_network_g`` is ~."""


class GANPathOptions(StudentPathOptions):
    """Checkpoints of a student and its discriminator."""

    pretrain_network_d: Path | None = None
    param_key_d: str | None = None
    strict_load_d: bool | None = None


class ValOptions(Section):
    """Validation."""

    val_freq: Iterations | None = None
    """Iterations between two validations."""
    save_img: bool
    """Write the SR images."""
    suffix: FileName | None = None
    """Added to the names of pictures; ~ adds the run's name."""
    pbar: bool | None = None
    """Progress bar; ~ shows it on a terminal."""
    metrics: Annotated[dict[str, dict[str, Any]] | None, Registered("metric", many=True)] = None
    """Scores by name; the first one decides which network is the best."""


class TwoStageValOptions(ValOptions):
    """Validation of LightBSR's and KDSR's models."""

    tile: Annotated[int, Field(ge=16, le=2**20)] | None = None
    """Side of tiles in LR pixels; ~ takes whole images where they fit."""


class WandbOptions(Section):
    """Weights & Biases."""

    project: str | None = None
    resume_id: str | None = None


class LoggerOptions(Section):
    """Log and checkpoints."""

    print_freq: Iterations
    save_checkpoint_freq: Iterations
    keep_checkpoints: Count | None = None
    """The newest N are kept; ~ keeps all."""
    use_tb_logger: bool | None = None
    """Write a log for TensorBoard."""
    wandb: WandbOptions | None = None


class DistOptions(Section):
    """Distributed training."""

    backend: Literal["nccl", "gloo", "mpi"] | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None


class FileOptions(Section):
    """An option file of any model."""

    name: FileName
    """Name of the run, of its folder in ``experiments`` or ``results``."""
    model_type: str
    imports: Annotated[list[str] | None, Field(alias="import")] = None
    """Modules of your own to import first, which register networks, losses, metrics or data sets."""
    scale: Annotated[int, Field(ge=1, le=64)] | None = None
    num_gpu: Gpus
    """GPUs of a process, 0 for the CPU."""
    manual_seed: Annotated[int, Field(ge=0, le=2**31)] | None = None
    find_unused_parameters: bool | None = None
    datasets: Annotated[dict[str, dict[str, Any]], Registered("dataset", many=True)]
    """``train`` and ``val``, or ``test_1``, ``test_2``, ..."""
    path: PathOptions
    train: TrainOptions | None = None
    val: ValOptions | None = None
    logger: LoggerOptions | None = None
    dist_params: DistOptions | None = None


class TwoStageFileOptions(FileOptions):
    """An option file of LightBSR's and KDSR's models."""

    scale: Literal[2, 3, 4]
    network_g: Annotated[dict[str, Any], Registered("arch")]
    train: TwoStageTrainOptions | None = None
    val: TwoStageValOptions | None = None


class LightBSRTeacherOptions(TwoStageFileOptions):
    """An option file of ``LightBSRTeacherModel``."""

    train: TeacherTrainOptions | None = None


class KDSRTeacherOptions(TwoStageFileOptions):
    """An option file of ``KDSRTeacherModel``."""

    train: KDSRTeacherTrainOptions | None = None


class LightBSRStudentOptions(TwoStageFileOptions):
    """An option file of ``LightBSRStudentModel``."""

    path: StudentPathOptions
    train: StudentTrainOptions | None = None


class KDSRStudentOptions(TwoStageFileOptions):
    """An option file of ``KDSRStudentModel``."""

    path: StudentPathOptions
    train: KDSRStudentTrainOptions | None = None


class LightBSRGANOptions(LightBSRStudentOptions):
    """An option file of ``LightBSRGANModel``."""

    network_d: OptionalNetwork = None
    path: GANPathOptions
    train: GANTrainOptions | None = None


class KDSRGANOptions(KDSRStudentOptions):
    """An option file of ``KDSRGANModel``."""

    network_d: OptionalNetwork = None
    path: GANPathOptions
    train: KDSRGANTrainOptions | None = None


# By the name of the class, as it is registered in BasicSR.
MODELS: dict[str, type[TwoStageFileOptions]] = {
    "LightBSRTeacherModel": LightBSRTeacherOptions,
    "LightBSRStudentModel": LightBSRStudentOptions,
    "LightBSRGANModel": LightBSRGANOptions,
    "KDSRTeacherModel": KDSRTeacherOptions,
    "KDSRStudentModel": KDSRStudentOptions,
    "KDSRGANModel": KDSRGANOptions,
}
