"""Test protocols and the papers' figures: YAML files of ``lightbsr/protocols`` and ``lightbsr/papers``, checked.

A protocol of one's own is a file of the same form, given by its path.
"""

import functools
import math
import os
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lightbsr.packaged import packaged_files
from lightbsr_compat import InputError, did_you_mean, load_options
from lightbsr_data import PhotoParameters
from lightbsr_data.datasets import parse_fixed_degradation
from lightbsr_data.photo import NO_BLUR

SCALES = (2, 3, 4)
AS_IS = "as_is"  # the one setting of a protocol that degrades nothing
MEAN = "mean"  # the setting of a figure that is the mean over all settings

Metric = Literal["psnr", "ssim", "niqe", "lpips", "dists"]
_METRICS = {
    "degraded": ("psnr", "ssim", "lpips", "dists"),
    "pairs": ("psnr", "ssim", "lpips", "dists"),
    "lr": ("niqe",),
}


def degradation_label(degradation: PhotoParameters) -> str:
    """A short name, unique within a protocol and good in a file name, such as ``theta30_3.5_1.5_noise5_q85``."""
    sigma_x, sigma_y, theta = degradation.sigma_x, degradation.sigma_y, degradation.theta
    if max(sigma_x, sigma_y) <= NO_BLUR:
        parts = ["noblur"]
    elif sigma_x == sigma_y and not theta:
        parts = [f"sigma{sigma_x:g}"]
    else:
        parts = [f"theta{math.degrees(theta):g}_{sigma_x:g}_{sigma_y:g}"]
    if degradation.noise_sigma:
        parts.append(f"noise{degradation.noise_sigma:g}")
    if degradation.how != "bicubic":
        parts.append(degradation.how)
    if degradation.quality is not None:
        parts.append(f"q{degradation.quality}")
    return "_".join(parts)


class _Data(BaseModel):
    """A part of a YAML file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Protocol(_Data):
    """A test protocol.

    Attributes:
        name: the file's, without folder and suffix, where it states none.
        source: where it comes from.
        sets: the sets that papers report on it; empty for every folder that there is.
        images: ``degraded``: LR images are made of HR images; ``pairs``: both are there; ``lr``: there is no HR image.
        metrics: names of the scores, the main one first.
        settings: degradations of HR images: one list for every scale, or a list under each of x2, x3, x4.
    """

    name: str
    source: str = ""
    sets: list[str] = []
    images: Literal["degraded", "pairs", "lr"]
    metrics: Annotated[list[Metric], Field(min_length=1)]
    settings: dict[Literal["x2", "x3", "x4"], list[dict[str, Any]]] = {}

    @field_validator("settings", mode="before")
    @classmethod
    def _for_every_scale(cls, settings: Any) -> Any:
        return {f"x{scale}": settings for scale in SCALES} if isinstance(settings, list) else settings

    @model_validator(mode="after")
    def _check(self) -> "Protocol":
        for metric in self.metrics:
            if metric not in _METRICS[self.images]:
                known = ", ".join(_METRICS[self.images])
                raise ValueError(f"metric {metric!r} does not go with images: {self.images}, only {known}")
        if any(self.settings.values()) != (self.images == "degraded"):
            raise ValueError(
                f"images: {self.images} needs {'a list of' if self.images == 'degraded' else 'no'} settings"
            )
        for name, entries in self.settings.items():
            labels = [degradation_label(parse_fixed_degradation(entry)) for entry in entries]
            if len(set(labels)) < len(labels):
                raise ValueError(f"settings: {name} has a degradation twice")
        return self

    def degradations(self, scale: int) -> dict[str, PhotoParameters | None]:
        """The settings at a scale by their labels; ``{"as_is": None}`` where nothing is degraded.

        Raises:
            InputError: the protocol has none for this scale.
        """
        if self.images != "degraded":
            return {AS_IS: None}
        by_scale = {str(name): entries for name, entries in self.settings.items() if entries}
        if f"x{scale}" not in by_scale:
            raise InputError(f"protocol {self.name!r} has no settings for x{scale}, only for {', '.join(by_scale)}")
        parsed = [parse_fixed_degradation(entry) for entry in by_scale[f"x{scale}"]]
        return {degradation_label(degradation): degradation for degradation in parsed}


class Size(_Data):
    """Cost of a network.

    Attributes:
        parameters: in millions.
        gmacs: multiply-accumulates in 1e9 (papers say GFLOPs).
        milliseconds: per image.
    """

    parameters: float | None = None
    gmacs: float | None = None
    milliseconds: float | None = None


class PaperRow(_Data):
    """One method of a printed table: its size, and for each metric and set one figure per setting."""

    size: Size = Size()
    psnr: dict[str, list[float]] = {}
    ssim: dict[str, list[float]] = {}
    lpips: dict[str, list[float]] = {}


class PaperTable(_Data):
    """A printed table.

    Attributes:
        name: as printed, behind the paper's.
        protocol: name of the protocol; None where there is none.
        settings: labels of the protocol's settings, or ``mean``.
        lr_size: (height, width) of the LR image that GMACs and milliseconds are of.
        baseline: in a table of ablations, the whole method.
        other_degradation: methods whose figures belong to another degradation than the table's.
        methods: rows.
    """

    name: str
    protocol: str | None
    scale: int
    settings: list[str]
    lr_size: list[int] = [256, 256]
    baseline: str | None = None
    other_degradation: list[str] = []
    methods: dict[str, PaperRow]


class Paper(_Data):
    """A file of ``lightbsr/papers``."""

    source: str
    tables: list[PaperTable]


def packaged_protocols() -> dict[str, str]:
    """The protocols of this package: name -> path."""
    return packaged_files("protocols", ".yml")


def load_protocol(name: str) -> Protocol:
    """Read a protocol, packaged or of one's own.

    Args:
        name: of a packaged protocol, or path of a file.

    Raises:
        InputError: no such protocol, or a file that says something unknown, missing or not implemented.
    """
    packaged = packaged_protocols()
    path = name if os.path.isfile(name) else packaged.get(name)
    if path is None:
        raise InputError(
            f"protocol {name!r} is neither a file nor a protocol of this package{did_you_mean(name, packaged)}"
        )
    try:
        return Protocol.model_validate({"name": os.path.splitext(os.path.basename(path))[0], **load_options(path)})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ": ".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            reason = f"unknown key{did_you_mean(where, Protocol.model_fields)}"
        raise InputError(f"{path!r}: {where + ': ' if where else ''}{reason}") from None


@functools.cache
def load_papers() -> list[Paper]:
    """The packaged papers."""
    return [Paper.model_validate(load_options(path)) for _, path in packaged_files("papers", ".yml").items()]


def paper_tables(protocol: str, scale: int) -> list[tuple[str, PaperTable]]:
    """(paper, table) of every packaged table of a protocol at a scale."""
    return [
        (paper.source, table)
        for paper in load_papers()
        for table in paper.tables
        if (table.protocol, table.scale) == (protocol, scale)
    ]
