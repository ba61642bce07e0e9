"""Test protocols as data: which degradations, which sets, which scores.

Each is one readable file in ``lightbsr/protocols``. A protocol of one's own is a file of the same form, given by its
path.
"""

import hashlib
import importlib.resources
import json
import os
from dataclasses import dataclass
from typing import Any

from lightbsr_compat import InputError, did_you_mean, load_options
from lightbsr_data.datasets import parse_fixed_degradation

SCALES = (2, 3, 4)
METRICS_WITH_HR = ("psnr", "ssim")
METRICS_WITHOUT_HR = ("niqe",)
# What a protocol states and this package implements in one way only: another value is refused, not ignored.
_SCORING = {"rounding": "8_bit", "channel": "y_of_matlab_ycbcr", "crop_border": "scale"}
_DEGRADING = {
    "hr_crop": "multiple_of_scale",
    "kernel_size": 21,
    "blur_border": "reflect",
    "downsampler": "bicubic_antialiased",
    "downsampler_border": "replicate",
    "noise_seed": "image_name_and_setting",
}
_KEYS = ("source", "sets", "hr", "metrics", "settings", *_SCORING, *_DEGRADING)


@dataclass(frozen=True)
class Setting:
    """One column of a protocol's table.

    Attributes:
        label: such as ``sigma1.2`` or ``theta30_3.5_1.5_noise5``; ``as_is`` where nothing is degraded.
        degradation: as in the protocol's file, for ``BlindBenchmarkDataset``; None where nothing is degraded.
    """

    label: str
    degradation: dict[str, float] | None


@dataclass(frozen=True)
class Protocol:
    """A test protocol.

    Attributes:
        name: the file's, without folder and suffix.
        source: where it comes from.
        sets: the sets that papers report on it; empty for every folder that there is.
        has_hr: whether HR images are degraded; else the images are the LR images.
        metrics: names of the scores.
        facts: how LR images are made and scored, as the file states it.
    """

    name: str
    source: str
    sets: tuple[str, ...]
    has_hr: bool
    metrics: tuple[str, ...]
    facts: dict[str, Any]
    _settings: dict[int, tuple[Setting, ...]]

    def settings(self, scale: int) -> tuple[Setting, ...]:
        """The settings at a scale.

        Raises:
            InputError: the protocol has none for it.
        """
        if scale not in self._settings:
            known = ", ".join(f"x{s}" for s in self._settings)
            raise InputError(f"protocol {self.name!r} has no settings for x{scale}, only for {known}")
        return self._settings[scale]

    def checksum(self, scale: int, settings: tuple[Setting, ...] | None = None) -> str:
        """SHA-256 of all that decides a score at this scale, in ``settings`` (all of them by default)."""
        settings = self.settings(scale) if settings is None else settings
        stated = {**self.facts, "metrics": self.metrics, "scale": scale, "settings": [s.degradation for s in settings]}
        return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


def setting_label(degradation: dict[str, float]) -> str:
    """A short name of a degradation, unique within a protocol and good in a file name."""
    if "sigma" in degradation:
        label = f"sigma{degradation['sigma']:g}"
    else:
        label = "theta{theta:g}_{sigma_x:g}_{sigma_y:g}".format(**degradation)
    noise = degradation.get("noise_sigma", 0)
    return f"{label}_noise{noise:g}" if noise else label


def packaged_protocols() -> dict[str, str]:
    """The protocols of this package: name -> path."""
    folder = importlib.resources.files("lightbsr") / "protocols"
    return {f.name.removesuffix(".yml"): str(f) for f in folder.iterdir() if f.name.endswith(".yml")}


def find_protocol(name: str) -> str:
    """The path of a protocol: ``name`` itself where that file exists, else the packaged one of that name.

    Raises:
        InputError: neither exists.
    """
    if os.path.isfile(name):
        return name
    packaged = packaged_protocols()
    if name not in packaged:
        raise InputError(
            f"protocol {name!r} is neither a file nor a protocol of this package{did_you_mean(name, packaged)}"
        )
    return packaged[name]


def load_protocol(name: str) -> Protocol:
    """Read and check a protocol, packaged or of one's own.

    Args:
        name: of a packaged protocol, or path of a file.

    Raises:
        InputError: no such protocol, or a file that says something unknown, missing or not implemented.
    """
    path = find_protocol(name)
    stated = load_options(path)

    def refuse(sentence: str) -> InputError:
        return InputError(f"protocol {path!r}: {sentence}")

    for key in stated:
        if key not in _KEYS:
            raise refuse(f"unknown key {key!r}{did_you_mean(key, _KEYS)}")
    has_hr = stated.get("hr")
    if not isinstance(has_hr, bool):
        raise refuse(f"hr is {has_hr!r}, but must be true (HR images are degraded) or false (LR images as they are)")
    fixed = {**_DEGRADING, **_SCORING} if has_hr else _SCORING
    for key, value in fixed.items():
        if key not in stated:
            raise refuse(f"{key} is missing (this package implements {value!r})")
        if stated[key] != value:
            raise refuse(f"{key} is {stated[key]!r}, but this package implements {value!r} only")
    for key in _DEGRADING:
        if not has_hr and key in stated:
            raise refuse(f"{key} says how HR images are degraded, but hr is false")
    known_metrics = METRICS_WITH_HR if has_hr else METRICS_WITHOUT_HR
    metrics, sets = stated.get("metrics"), stated.get("sets", [])
    if not isinstance(metrics, list) or not metrics:
        raise refuse(f"metrics is {metrics!r}, but must be a list of some of {', '.join(known_metrics)}")
    for metric in metrics:
        if metric not in known_metrics:
            raise refuse(f"metric {metric!r} is not known{did_you_mean(metric, known_metrics)}")
    if not isinstance(sets, list) or not all(isinstance(name, str) for name in sets):
        raise refuse(f"sets is {sets!r}, but must be a list of names")
    try:
        settings = _read_settings(stated.get("settings"), has_hr)
    except InputError as error:
        raise refuse(str(error)) from None
    return Protocol(
        name=os.path.splitext(os.path.basename(path))[0],
        source=str(stated.get("source", "")),
        sets=tuple(sets),
        has_hr=has_hr,
        metrics=tuple(metrics),
        facts={"hr": has_hr, **{key: stated[key] for key in fixed}},
        _settings=settings,
    )


def _read_settings(stated: Any, has_hr: bool) -> dict[int, tuple[Setting, ...]]:
    """The settings by scale: one list for every scale, or a list under each of x2, x3, x4."""
    if not has_hr:
        if stated:
            raise InputError(f"settings is {stated!r}, but without HR images nothing is degraded: give []")
        return dict.fromkeys(SCALES, (Setting("as_is", None),))
    if isinstance(stated, list):
        stated = {f"x{scale}": stated for scale in SCALES}
    if not isinstance(stated, dict) or not stated:
        raise InputError(f"settings is {stated!r}, but must be a list, or lists under x2, x3 and x4")
    names = [f"x{scale}" for scale in SCALES]
    settings = {}
    for name, degradations in stated.items():
        if name not in names:
            raise InputError(f"settings: unknown key {name!r}{did_you_mean(name, names)}")
        if not isinstance(degradations, list) or not degradations:
            raise InputError(f"settings: {name} is {degradations!r}, but must be a list of degradations")
        for degradation in degradations:
            parse_fixed_degradation(degradation)
        labels = [setting_label(degradation) for degradation in degradations]
        if len(set(labels)) < len(labels):
            raise InputError(f"settings: {name} has a degradation twice")
        settings[int(name[1:])] = tuple(map(Setting, labels, degradations))
    return settings
