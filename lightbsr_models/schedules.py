"""The learning rate of a run in two stages.

Source: LightBSR (ICCV 2025), Sec. 4.1: stage 1 constant; stage 2 a linear warm-up, then one cosine.
"""

import math


class TwoStageCosine:
    """Factor of the base learning rate at an iteration; for torch's ``LambdaLR``.

    Args:
        pretrain_iter: iterations of stage 1, at factor 1.
        warmup_iter: iterations of stage 2 in which the factor rises linearly from 0 to 1.
        total_iter: all iterations of the run.
        min_factor: factor at the last iteration.
    """

    def __init__(self, *, pretrain_iter: int, warmup_iter: int, total_iter: int, min_factor: float) -> None:
        self.pretrain_iter = pretrain_iter
        self.warmup_iter = warmup_iter
        self.total_iter = total_iter
        self.min_factor = min_factor

    def __call__(self, step: int) -> float:
        """The factor of iteration ``step`` + 1 (torch counts schedulers' steps from 0)."""
        iteration = step + 1
        if iteration <= self.pretrain_iter:
            return 1.0
        iteration -= self.pretrain_iter
        if iteration <= self.warmup_iter:
            return iteration / self.warmup_iter
        progress = (iteration - self.warmup_iter) / max(1, self.total_iter - self.pretrain_iter - self.warmup_iter)
        return self.min_factor + (1 - self.min_factor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
