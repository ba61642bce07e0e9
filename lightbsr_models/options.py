"""Declarations of losses, optimizers, schedules and the ``train`` sections of all models.

``lightbsr check`` reads them, and the JSON schema that editors complete option files from is made of them.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from lightbsr_compat import InputError
from lightbsr_data.option_types import (
    Iterations,
    NonNegative,
    Number,
    Positive,
    Probability,
    Registered,
    Section,
    whole,
)


def _none_or_iterations(value: Any) -> Any:
    return 0 if value == -1 and not isinstance(value, bool) else whole(value)


NoneOrIterations = Annotated[
    int,
    BeforeValidator(_none_or_iterations),
    Field(ge=0, le=2**40),
    WithJsonSchema({"type": "integer", "minimum": -1}),
]
"""Iterations; -1 is BasicSR's way to say 0."""
Loss = Annotated[dict[str, Any], Registered("loss")]
OptionalLoss = Annotated[dict[str, Any] | None, Registered("loss")]
Optimizer = Annotated[dict[str, Any], Registered("optimizer")]
Sharpened = Literal["pixel_opt", "perceptual_opt", "gan_opt"]

# --- losses ---


class ContrastiveLossOptions(Section):
    """InfoNCE over the views of an image (LightBSR, Eq. 1-2)."""

    type: str
    loss_weight: Number | None = None
    temperature: Positive | None = None
    """tau, 0.07 by default."""


class KLDistillationLossOptions(Section):
    """KL divergence of the student's IDR from the teacher's (LightBSR, Eq. 5-8; KDSR, Eq. 5)."""

    type: str
    loss_weight: Number | None = None
    temperature: Positive | None = None
    """0.15 by default, as in the released code."""


LOSSES: dict[str, type[Section]] = {
    "ContrastiveLoss": ContrastiveLossOptions,
    "KLDistillationLoss": KLDistillationLossOptions,
}

# --- optimizers and schedules ---


class AdamOptions(Section):
    """Adam, the one optimizer that BasicSR knows."""

    type: str
    lr: Positive
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] | None = None
    eps: NonNegative | None = None
    weight_decay: NonNegative | None = None
    amsgrad: bool | None = None
    fused: bool | None = None
    """Update all weights in one pass; in ``optim_g`` of LightBSR and KDSR on by default."""


class TwoStageCosineOptions(Section):
    """Stage 1 constant; stage 2 a linear warm-up, then one cosine (LightBSR, Sec. 4.1)."""

    type: str
    warmup_iter: NoneOrIterations
    """Iterations of stage 2 in which the learning rate rises from 0."""
    eta_min: NonNegative
    """Learning rate of the last iteration."""


class MultiStepOptions(Section):
    """The learning rate times ``gamma`` at each milestone."""

    type: str
    milestones: list[Iterations]
    gamma: NonNegative | None = None
    restarts: list[Annotated[int, Field(ge=0, le=2**40)]] | None = None
    restart_weights: list[NonNegative] | None = None


class CosineRestartOptions(Section):
    """A cosine in each period."""

    type: str
    periods: list[Iterations]
    restart_weights: list[NonNegative] | None = None
    eta_min: NonNegative | None = None

    @model_validator(mode="after")
    def _check(self) -> "CosineRestartOptions":
        if self.restart_weights is not None and len(self.restart_weights) != len(self.periods):
            raise InputError(f"restart_weights is {self.restart_weights}, but must be a weight for each of periods")
        return self


OPTIMIZERS: dict[str, type[Section]] = {"Adam": AdamOptions}
SCHEDULERS: dict[str, type[Section]] = {
    "TwoStageCosine": TwoStageCosineOptions,
    "MultiStepLR": MultiStepOptions,
    "MultiStepRestartLR": MultiStepOptions,
    "CosineAnnealingRestartLR": CosineRestartOptions,
}

# --- training ---


class TrainOptions(Section):
    """``train`` of any model."""

    total_iter: Iterations
    """Iterations of the whole run."""
    warmup_iter: NoneOrIterations | None = None
    """Iterations in which the learning rate rises from 0; -1 or ~ for none."""
    ema_decay: Probability | None = None
    """Decay of the average of the weights; 0 for none."""
    optim_g: Optimizer
    scheduler: Annotated[dict[str, Any], Registered("scheduler")]
    pixel_opt: OptionalLoss = None
    perceptual_opt: OptionalLoss = None


class TwoStageTrainOptions(TrainOptions):
    """``train`` of LightBSR's and KDSR's models."""

    pixel_opt: Loss
    """Loss of the SR image."""
    idr_pretrain_iter: Annotated[int, BeforeValidator(whole), Field(ge=0, le=2**40)] | None = None
    """Iterations of stage 1, which trains the IDR alone."""
    amp: Literal["bf16", "fp16"] | None = None
    """Mixed precision of the networks."""
    channels_last: bool | None = None
    """Memory layout of feature maps; ~ for channels last on the CPU."""
    checkpointing: bool | None = None
    """Compute activations a second time instead of keeping them: less memory, more time."""
    compile: bool | None = None
    """Compile the SR network's blocks."""
    usm_targets: list[Sharpened] | None = None
    """Losses against sharpened HR images, with Real-ESRGAN's degradation."""

    @model_validator(mode="after")
    def _check(self) -> "TwoStageTrainOptions":
        stage_2 = self.total_iter - (self.idr_pretrain_iter or 0)
        if stage_2 < 0:
            raise InputError(
                f"idr_pretrain_iter is {self.idr_pretrain_iter}, but must be at most total_iter, {self.total_iter}"
            )
        warm_up = self.scheduler.get("warmup_iter")
        if isinstance(warm_up, int) and 0 < stage_2 < warm_up:
            raise InputError(
                f"scheduler: warmup_iter is {warm_up}, but must be at most the {stage_2} iterations of stage 2"
                " (total_iter - idr_pretrain_iter)"
            )
        return self


class TeacherTrainOptions(TwoStageTrainOptions):
    """``train`` of LightBSR's teacher."""

    contrast_opt: OptionalLoss
    """Contrastive loss; ~ trains the estimator by super-resolution alone (an ablation)."""


class KDSRTeacherTrainOptions(TwoStageTrainOptions):
    """``train`` of KDSR's teacher, which has one stage."""

    idr_pretrain_iter: Annotated[int, Field(ge=0, le=0)] | None = None


class StudentTrainOptions(TwoStageTrainOptions):
    """``train`` of LightBSR's student."""

    spatial_opt: Loss
    """Loss between the spatial IDRs."""
    channel_kl_opt: Loss
    channel_l1_opt: Loss
    prior_opt: OptionalLoss = None
    """Loss between the degradation prior and a linear readout of the channel IDR; not in the paper."""


class KDSRStudentTrainOptions(TwoStageTrainOptions):
    """``train`` of KDSR's student."""

    kl_opt: Loss


class _Adversarial(Section):
    gan_opt: Loss
    optim_d: Optimizer


class GANTrainOptions(StudentTrainOptions, _Adversarial):
    """``train`` of LightBSR's student with a discriminator."""


class KDSRGANTrainOptions(KDSRStudentTrainOptions, _Adversarial):
    """``train`` of KDSR-GAN."""
