"""The learning rate of a run in two stages.

Source: LightBSR (ICCV 2025), Sec. 4.1: stage 1 constant; stage 2 a linear warm-up, then one cosine.
"""

import math
from collections.abc import Callable


def two_stage_cosine(
    *, pretrain_iter: int, warmup_iter: int, total_iter: int, min_factor: float
) -> Callable[[int], float]:
    """Factor of the base learning rate as a function of the step, for torch's ``LambdaLR``.

    A function and not an object: ``LambdaLR`` would save an object's fields and put them back on resume, over what the
    option file says by then.

    Args:
        pretrain_iter: iterations of stage 1, at factor 1.
        warmup_iter: iterations of stage 2 in which the factor rises linearly from 0 to 1.
        total_iter: all iterations of the run.
        min_factor: factor at the last iteration.

    Returns:
        The factor of iteration ``step`` + 1 (torch counts schedulers' steps from 0).
    """
    warmup_iter = max(0, warmup_iter)  # -1 is BasicSR's way to say 0

    def factor(step: int) -> float:
        iteration = step + 1
        if iteration <= pretrain_iter:
            return 1.0
        iteration -= pretrain_iter
        if iteration <= warmup_iter:
            return iteration / warmup_iter
        progress = (iteration - warmup_iter) / max(1, total_iter - pretrain_iter - warmup_iter)
        return min_factor + (1 - min_factor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return factor
