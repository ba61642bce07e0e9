"""Validation for BasicSR's loops: every rank takes its share, what has no score is named, the best network is kept.

BasicSR validates on rank 0 alone, while the others wait. Here rank r takes images r, r + R, r + 2R, ... of R ranks; the
scores are gathered and added up in the images' order, so that the result has the same bits as one process's.
"""

import functools
import math
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from basicsr.metrics import calculate_metric
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger, imwrite, tensor2img
from basicsr.utils.dist_util import get_dist_info
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from lightbsr_compat import InputError

from .stopping import stop_requested

LOWER_IS_BETTER = ("niqe", "lpips", "dists", "fid")  # in the names of metrics

# By metric: an image's score, or the reason why it has none.
Scores = dict[str, float | str]


def better(metric: dict[str, Any]) -> str:
    """The direction of an entry of ``val: metrics``: its ``better``, or what its ``type`` is known for."""
    lower = any(name in metric["type"].lower() for name in LOWER_IS_BETTER)
    return metric.get("better") or ("lower" if lower else "higher")


class ShardedValidation(SRModel):
    """BasicSR's ``SRModel`` with another validation; option ``val: pbar``: ~ shows a bar on a terminal only."""

    def dist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:
        self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:
        dataset_name = dataloader.dataset.opt["name"]
        metrics = self.opt["val"].get("metrics") or {}
        share = self._score_share(dataloader, metrics, dataset_name, current_iter, tb_logger, save_img)
        images = self._gathered(share)
        if len(images) < len(dataloader.dataset):
            get_root_logger().warning(f"The validation of {dataset_name} was cut off: no scores.")
            return
        if not metrics:
            return
        self._initialize_best_metric_results(dataset_name)
        self.metric_results = {}
        for metric in metrics:
            values = self._scores_of(metric, [images[index] for index in sorted(images)], dataset_name)
            if values:
                self.metric_results[metric] = sum(values) / len(values)
                self._update_best_metric_result(dataset_name, metric, self.metric_results[metric], current_iter)
        if get_dist_info()[0] == 0:
            self._log_validation_metric_values(current_iter, dataset_name, tb_logger)
        self._save_best(dataset_name, next(iter(metrics)), current_iter)

    def _score_share(
        self,
        dataloader: Any,
        metrics: dict[str, Any],
        dataset_name: str,
        current_iter: Any,
        tb_logger: Any,
        save_img: bool,
    ) -> tuple[dict[int, tuple[str, Scores]], str | None]:
        """(name, scores) of this rank's images by their number, and the sentence of the error that ended it early."""
        rank, world_size = get_dist_info()
        share = range(rank, len(dataloader.dataset), world_size)
        loader = DataLoader(Subset(dataloader.dataset, share), batch_size=1, num_workers=dataloader.num_workers)
        pbar = self.opt["val"].get("pbar")
        images: dict[int, tuple[str, Scores]] = {}
        bar = tqdm(total=len(share), unit="image", disable=True if rank else (None if pbar is None else not pbar))
        try:
            with bar:
                for index, data in zip(share, loader, strict=True):
                    if stop_requested():
                        break
                    bar.set_description(dataset_name)
                    name = os.path.splitext(os.path.basename(data["lq_path"][0]))[0]
                    path = self._picture_path(name, dataset_name, current_iter) if save_img else None
                    show = None
                    if tb_logger is not None and index == 0:  # one of a set is enough
                        show = functools.partial(
                            tb_logger.add_image, f"{dataset_name}/{name}", global_step=current_iter
                        )
                    images[index] = name, self._score_image(data, metrics, path, show)
                    bar.update()
        except InputError as error:
            if world_size == 1:
                raise
            return images, str(error)  # the other ranks must hear of it, or they would wait for ever
        return images, None

    def _gathered(self, mine: tuple[dict[int, tuple[str, Scores]], str | None]) -> dict[int, tuple[str, Scores]]:
        """The images of all ranks.

        Raises:
            InputError: on every rank, where one of them met an error.
        """
        _, world_size = get_dist_info()
        shares: list[Any] = [mine]
        if world_size > 1:
            shares = [None] * world_size
            dist.all_gather_object(shares, mine)
        for _, error in shares:
            if error is not None:
                raise InputError(error)
        return {index: image for share, _ in shares for index, image in share.items()}

    def _score_image(
        self, data: dict[str, Any], metrics: dict[str, Any], picture_path: str | None, show: Callable[..., None] | None
    ) -> Scores:
        """Super-resolve an image, write it if ``picture_path`` is given, show it if TensorBoard wants it, and score it.

        Raises:
            InputError: it does not fit into the GPU's memory.
        """
        self.feed_data(data)
        try:
            self.test()
        except torch.cuda.OutOfMemoryError:
            h, w = self.lq.shape[-2:]
            raise InputError(
                f"image {data['lq_path'][0]!r}, {w}x{h} LR pixels, does not fit into the GPU's memory: validate on"
                " smaller ones (lightbsr upscale tiles)"
            ) from None
        visuals = self.get_current_visuals()
        del self.lq, self.output
        if "gt" in visuals:
            del self.gt
        if not visuals["result"].isfinite().all():
            return dict.fromkeys(metrics, "the SR image is not finite")
        images = {"img": tensor2img([visuals["result"]])}
        if "gt" in visuals:
            images["img2"] = tensor2img([visuals["gt"]])
        if picture_path is not None:
            imwrite(images["img"], picture_path)
        if show is not None:
            show(images["img"][..., ::-1].copy(), dataformats="HWC")
        return {metric: _score(images, options) for metric, options in metrics.items()}

    def _picture_path(self, name: str, dataset_name: str, current_iter: Any) -> str:
        """Where BasicSR puts an image."""
        folder = self.opt["path"]["visualization"]
        if self.opt["is_train"]:
            return f"{folder}/{name}/{name}_{current_iter}.png"
        return f"{folder}/{dataset_name}/{name}_{self.opt['val']['suffix'] or self.opt['name']}.png"

    @staticmethod
    def _scores_of(metric: str, images: list[tuple[str, Scores]], dataset_name: str) -> list[float]:
        """The scores under a metric; images without one are named in the log."""
        without = {name: score for name, scores in images if isinstance(score := scores[metric], str)}
        if without:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in without.items())
            get_root_logger().warning(
                f"{dataset_name}: {len(without)} of {len(images)} images have no {metric}, and the mean leaves them"
                f" out ({reasons})"
            )
        return [score for _, scores in images if not isinstance(score := scores[metric], str)]

    def _initialize_best_metric_results(self, dataset_name: str) -> None:
        """As ``BaseModel``'s, but a metric that was added before a resume has a record too."""
        if not hasattr(self, "best_metric_results"):
            self.best_metric_results: dict[str, Any] = {}
        record = self.best_metric_results.setdefault(dataset_name, {})
        for name, metric in self.opt["val"]["metrics"].items():
            worst = -math.inf if better(metric) == "higher" else math.inf
            record.setdefault(name, dict(better=better(metric), val=worst, iter=-1))

    def _save_best(self, dataset_name: str, metric: str, current_iter: Any) -> None:
        """Keep ``net_g_best.pth``: the network with the best first metric on the first validation set."""
        if not self.opt["is_train"]:
            return
        sets = [d["name"] for phase, d in self.opt["datasets"].items() if phase.split("_")[0] == "val"]
        if dataset_name != sets[0] or self.best_metric_results[dataset_name][metric]["iter"] != current_iter:
            return
        if hasattr(self, "net_g_ema"):
            self.save_network([self.net_g, self.net_g_ema], "net_g", "best", param_key=["params", "params_ema"])
        else:
            self.save_network(self.net_g, "net_g", "best")


def _score(images: dict[str, Any], options: dict[str, Any]) -> float | str:
    try:
        score = float(calculate_metric(images, options))
    except Exception as error:  # metrics raise of all kinds where an image is too small or flat
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return score if math.isfinite(score) else f"the score is {score}"
