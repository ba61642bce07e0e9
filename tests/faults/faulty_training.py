"""``faulty_training.py FAULT -opt ...``: ``lightbsr train`` with one fault injected.

Faults:
    kill-in-step:ITERATION:SECONDS  SIGKILL so long after that iteration began
    kill-in-save:N                  SIGKILL at the N-th event of saving: half written, written, renamed, named, ...
    full-disk:N                     the N-th file that is saved meets a full disk, half written
    signal-in-step:ITERATION:NUMBER the process (rank 1 of several) gets that signal in the middle of that iteration
    slow-steps:SECONDS              every step takes so much longer
    dead-worker:ITERATION           a data-loading worker is killed when that iteration begins
    dead-rank:ITERATION             rank 1 kills itself when that iteration begins
    not-finite:ITERATION            the weights become NaN when that iteration begins
    record                          no fault: write losses_RANK.json and queue_RANK.pt, computed in float64, so that
                                    rounding errors stay below the tolerance of a comparison
"""

import errno
import io
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import types

import torch

import lightbsr_cli
from lightbsr_compat import files
from lightbsr_models.two_stage_model import TwoStageModel

RANK = os.environ.get("RANK", "0")


def at_iteration(iteration: int | None, act) -> None:
    """Call ``act(model)`` when that iteration begins, or every one."""
    stock = TwoStageModel.update_learning_rate

    def update_learning_rate(self, current_iter, warmup_iter=-1):
        stock(self, current_iter, warmup_iter)
        if iteration in (None, current_iter):
            act(self)

    TwoStageModel.update_learning_rate = update_learning_rate


def record_steps() -> None:
    from basicsr.models import sr_model

    losses = []
    build, feed_data, stock = sr_model.build_network, TwoStageModel.feed_data, TwoStageModel.optimize_parameters

    def feed_doubles(self, data):
        feed_data(self, data)
        if "lq" not in data:
            self.batch = type(self.batch)(*(None if value is None else value.double() for value in self.batch))

    def optimize_parameters(self, current_iter):
        stock(self, current_iter)
        losses.append(self.log_dict)
        with open(f"losses_{RANK}.json", "w") as file:
            json.dump(losses, file)
        torch.save(self.net_g.queue, f"queue_{RANK}.pt")

    sr_model.build_network = lambda opt: build(opt).double()
    TwoStageModel.feed_data, TwoStageModel.optimize_parameters = feed_doubles, optimize_parameters


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def make_nan(model) -> None:
    with torch.no_grad():
        next(p for p in model.net_g.parameters() if p.requires_grad).fill_(float("nan"))


class Buffer(io.BytesIO):
    """The content of a file; calls ``on_write`` with its first half before it is written."""

    on_write = staticmethod(lambda half: None)

    def getbuffer(self):
        content = super().getbuffer()
        half = content[: len(content) // 2]
        self.on_write(half)
        return content


def half_write(half) -> None:
    """Write the first half of the newest unfinished file, as a crash leaves it."""
    found = [os.path.join(d, f) for d, _, fs in os.walk("experiments") for f in fs if f.startswith(".unfinished-")]
    with open(max(found, key=os.path.getmtime), "wb") as file:
        file.write(half)


def inject_into_saving(number: int, crash) -> None:
    """Call ``crash()`` at the ``number``-th event of saving files; half of a file is on the disk at every third."""
    count = [0]

    def event(half=None) -> None:
        count[0] += 1
        if count[0] == number:
            if half is not None:
                half_write(half)
            crash()

    Buffer.on_write = staticmethod(event)
    if crash is kill_self:
        sync, replace = files._sync, os.replace
        files._sync = lambda path: (sync(path), event())
        os.replace = lambda a, b: (replace(a, b), event())


def full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def main() -> int:
    kind, *parameters = sys.argv.pop(1).split(":")
    files.io = types.SimpleNamespace(BytesIO=Buffer)
    in_rank_1 = RANK == "1" or "WORLD_SIZE" not in os.environ
    if kind == "kill-in-step":
        at_iteration(int(parameters[0]), lambda model: threading.Timer(float(parameters[1]), kill_self).start())
    elif kind in ("kill-in-save", "full-disk"):
        inject_into_saving(int(parameters[0]), kill_self if kind == "kill-in-save" else full_disk)
    elif kind == "signal-in-step":
        at_iteration(int(parameters[0]), lambda model: in_rank_1 and os.kill(os.getpid(), int(parameters[1])))
    elif kind == "slow-steps":
        at_iteration(None, lambda model: time.sleep(float(parameters[0])))
    elif kind == "dead-worker":
        at_iteration(int(parameters[0]), lambda m: [os.kill(p.pid, 9) for p in multiprocessing.active_children()[:1]])
    elif kind == "dead-rank":
        at_iteration(int(parameters[0]), lambda model: in_rank_1 and kill_self())
    elif kind == "not-finite":
        at_iteration(int(parameters[0]), make_nan)
    elif kind == "record":
        record_steps()
    else:
        raise SystemExit(f"unknown fault {kind!r}")
    return lightbsr_cli.main(["train", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
