"""Validation for BasicSR's loops: every rank takes its share, images that do not fit are tiled, the best is kept.

BasicSR validates on rank 0 alone, while the others wait. Here rank r takes images r, r + R, r + 2R, ... of R ranks; the
scores are gathered and added up in the images' order, so that the result has the same bits as one process's.
"""

import os
from typing import Any

import torch
import torch.distributed as dist
from basicsr.metrics import calculate_metric
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger, imwrite, tensor2img
from basicsr.utils.dist_util import get_dist_info
from torch import nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from lightbsr_compat import InputError

FALLBACK_TILE = 256  # LR pixels, where an image did not fit and the option file names no tile
TILE_OVERLAP = 16  # LR pixels that a tile sees beyond its own on every side


def _spans(length: int, tile: int) -> list[tuple[int, int]]:
    return [(start, min(start + tile, length)) for start in range(0, length, tile)]


class ShardedValidation(SRModel):
    """BasicSR's ``SRModel`` with another validation.

    Options of ``val`` (besides BasicSR's own):
        pbar: a progress bar: true, false, or on a terminal only (~, the default).
        tile: side in LR pixels of tiles that images are cut into; ~ takes them whole, and in tiles of 256 where the
            GPU's memory does not suffice. A tile's IDR is its own: tiled scores are close to, but not those of whole
            images.
    """

    net_g: nn.Module
    lq: Any
    gt: Any
    output: Any

    def dist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:
        for network in [self.net_g, *([self.net_g_ema] if hasattr(self, "net_g_ema") else [])]:
            # Each rank's BatchNorm has seen its own batches since the last step; rank 0's network is the one saved.
            for buffer in network.buffers():
                if buffer.numel():
                    dist.broadcast(buffer, 0)
        self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:
        dataset_name = dataloader.dataset.opt["name"]
        metrics = self.opt["val"].get("metrics") or {}
        scores = self._gathered(self._score_share(dataloader, metrics, dataset_name, current_iter, save_img))
        if not metrics:
            return
        self._initialize_best_metric_results(dataset_name)
        self.metric_results = {}
        for i, name in enumerate(metrics):
            self.metric_results[name] = sum(scores[index][i] for index in sorted(scores)) / len(scores)
            self._update_best_metric_result(dataset_name, name, self.metric_results[name], current_iter)
        if get_dist_info()[0] == 0:
            self._log_validation_metric_values(current_iter, dataset_name, tb_logger)
        self._save_best(dataset_name, next(iter(metrics)), current_iter)

    def _score_share(
        self, dataloader: Any, metrics: dict[str, Any], dataset_name: str, current_iter: Any, save_img: bool
    ) -> tuple[dict[int, list[float]], str | None]:
        """This rank's scores by the image's number, and the sentence of the error that ended it early, if any."""
        rank, world_size = get_dist_info()
        share = range(rank, len(dataloader.dataset), world_size)
        loader = DataLoader(Subset(dataloader.dataset, share), batch_size=1, num_workers=dataloader.num_workers)
        pbar = self.opt["val"].get("pbar")
        scores: dict[int, list[float]] = {}
        bar = tqdm(total=len(share), unit="image", disable=True if rank else (None if pbar is None else not pbar))
        try:
            with bar:
                for index, data in zip(share, loader, strict=True):
                    bar.set_description(dataset_name)
                    scores[index] = self._score_image(data, metrics, dataset_name, current_iter, save_img)
                    bar.update()
        except InputError as error:
            if world_size == 1:
                raise
            return scores, str(error)  # the other ranks must hear of it, or they would wait for ever
        return scores, None

    def _gathered(self, mine: tuple[dict[int, list[float]], str | None]) -> dict[int, list[float]]:
        """The scores of all ranks.

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
        return {index: values for share, _ in shares for index, values in share.items()}

    def _score_image(
        self, data: dict[str, Any], metrics: dict[str, Any], dataset_name: str, current_iter: Any, save_img: bool
    ) -> list[float]:
        self.feed_data(data)
        self._test_what_fits()
        visuals = self.get_current_visuals()
        images = {"img": tensor2img([visuals["result"]])}
        if "gt" in visuals:
            images["img2"] = tensor2img([visuals["gt"]])
            del self.gt
        del self.lq, self.output
        if save_img:
            imwrite(images["img"], self._picture_path(data["lq_path"][0], dataset_name, current_iter))
        return [float(calculate_metric(images, options)) for options in metrics.values()]

    def _picture_path(self, lq_path: str, dataset_name: str, current_iter: Any) -> str:
        """Where BasicSR puts an image."""
        name = os.path.splitext(os.path.basename(lq_path))[0]
        folder = self.opt["path"]["visualization"]
        if self.opt["is_train"]:
            return f"{folder}/{name}/{name}_{current_iter}.png"
        return f"{folder}/{dataset_name}/{name}_{self.opt['val']['suffix'] or self.opt['name']}.png"

    def _test_what_fits(self) -> None:
        tile = self.opt["val"].get("tile")
        if tile is None:
            try:
                self.test()
                return
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                tile = FALLBACK_TILE
                h, w = self.lq.shape[-2:]
                get_root_logger().warning(f"An LR image of {w}x{h} does not fit into memory: tiled by {tile}.")
        self._test_tiles(tile)
        self.net_g.train(self.is_train)

    def _test_tiles(self, tile: int) -> None:
        """``test`` on overlapping tiles; ``output`` is put together from their middles."""
        lq, gt, scale = self.lq, getattr(self, "gt", None), self.opt["scale"]
        h, w = lq.shape[-2:]
        output = lq.new_empty(*lq.shape[:-2], h * scale, w * scale)
        for top, bottom in _spans(h, tile):
            for left, right in _spans(w, tile):
                y, x = max(top - TILE_OVERLAP, 0), max(left - TILE_OVERLAP, 0)
                rows, columns = slice(y, bottom + TILE_OVERLAP), slice(x, right + TILE_OVERLAP)
                self.lq = lq[..., rows, columns]
                if gt is not None:  # KDSR's teacher sees it too
                    self.gt = gt[..., y * scale : rows.stop * scale, x * scale : columns.stop * scale]
                self.test()
                inner = self.output[..., (top - y) * scale :, (left - x) * scale :]
                height, width = (bottom - top) * scale, (right - left) * scale
                output[..., top * scale : bottom * scale, left * scale : right * scale] = inner[..., :height, :width]
        self.lq, self.output = lq, output
        if gt is not None:
            self.gt = gt

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
