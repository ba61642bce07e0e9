"""``faulty_training.py FAULT train -opt ...``: the command line of lightbsr, with one fault injected.

Faults:
    kill-in-step:ITERATION:SECONDS  SIGKILL so long after that iteration began
    kill-in-save:N                  SIGKILL at the N-th event of saving: half written, written, renamed, named, ...
    full-disk:N                     the N-th file that is saved meets a full disk, half written
    signal-in-step:ITERATION:NUMBER the process gets that signal in the middle of that iteration
    signal-in-step-of-rank-1:...    the same for rank 1 alone
    slow-steps:SECONDS              every step takes so much longer
    dead-worker:ITERATION           a data-loading worker is killed when that iteration begins
    record                          no fault: losses_RANK.json and queue_RANK.pt tell what happened, in float64, so
                                    that rounding does not grow in fifty steps to what a comparison would see
    dead-rank:ITERATION             rank 1 kills itself when that iteration begins
"""

import errno
import functools
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
from lightbsr_compat import files, training
from lightbsr_models.two_stage_model import TwoStageModel


def at_iteration(iteration: int | None, act) -> None:
    """Call ``act`` when that iteration begins, or every one."""
    model = training.BaseModel
    stock = model.update_learning_rate

    def update_learning_rate(self, current_iter, warmup_iter=-1):
        stock(self, current_iter, warmup_iter)
        if iteration in (None, current_iter):
            act()

    model.update_learning_rate = update_learning_rate


def record_steps() -> None:
    from basicsr.models import sr_model  # here: lightbsr_compat mends basicsr.data first

    losses, rank = [], os.environ.get("RANK", "0")
    build, feed_data, stock = sr_model.build_network, TwoStageModel.feed_data, TwoStageModel.optimize_parameters

    def feed_doubles(self, data):
        feed_data(self, data)
        for name in self.batch_attributes:
            if getattr(self, name, None) is not None:
                setattr(self, name, getattr(self, name).double())

    def optimize_parameters(self, current_iter):
        stock(self, current_iter)
        losses.append(self.log_dict)
        with open(f"losses_{rank}.json", "w") as file:
            json.dump(losses, file)
        torch.save(self.net_g.queue, f"queue_{rank}.pt")

    sr_model.build_network = lambda opt: build(opt).double()
    TwoStageModel.feed_data, TwoStageModel.optimize_parameters = feed_doubles, optimize_parameters


def kill_me() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Buffer(io.BytesIO):
    """What is to be written; asks ``on_write`` whether the first half is all that gets onto the disk."""

    on_write = staticmethod(lambda half: None)

    def getbuffer(self):
        content = super().getbuffer()
        half = content[: len(content) // 2]
        self.on_write(half)
        return content


def half_write(half) -> None:
    """Write what the crash leaves: the newest unfinished file, half of it."""
    found = [os.path.join(d, f) for d, _, fs in os.walk("experiments") for f in fs if f.startswith(".unfinished-")]
    with open(max(found, key=os.path.getmtime), "wb") as file:
        file.write(half)


def main() -> int:
    kind, *parameters = sys.argv.pop(1).split(":")
    count = [0]
    files.io = types.SimpleNamespace(BytesIO=Buffer)
    if kind == "kill-in-step":
        delay = float(parameters[1])
        at_iteration(int(parameters[0]), lambda: threading.Timer(delay, kill_me).start())
    elif kind == "kill-in-save":

        def event(half=None) -> None:
            count[0] += 1
            if count[0] == int(parameters[0]):
                if half is not None:
                    half_write(half)
                kill_me()

        sync, replace = files._sync, os.replace
        Buffer.on_write = staticmethod(event)
        files._sync = lambda path: (sync(path), event())
        os.replace = lambda a, b: (replace(a, b), event())
    elif kind == "full-disk":

        def full(half) -> None:
            count[0] += 1
            if count[0] == int(parameters[0]):
                half_write(half)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        Buffer.on_write = staticmethod(full)
    elif kind == "signal-in-step":
        at_iteration(int(parameters[0]), lambda: os.kill(os.getpid(), int(parameters[1])))
    elif kind == "signal-in-step-of-rank-1":
        signal_me = functools.partial(os.kill, os.getpid(), int(parameters[1]))
        at_iteration(int(parameters[0]), lambda: signal_me() if os.environ["RANK"] == "1" else None)
    elif kind == "slow-steps":
        at_iteration(None, lambda: time.sleep(float(parameters[0])))
    elif kind == "record":
        record_steps()
    elif kind == "dead-worker":
        at_iteration(int(parameters[0]), lambda: [os.kill(p.pid, 9) for p in multiprocessing.active_children()[:1]])
    elif kind == "dead-rank":
        at_iteration(int(parameters[0]), lambda: kill_me() if os.environ.get("RANK") == "1" else None)
    else:
        raise SystemExit(f"unknown fault {kind!r}")
    return lightbsr_cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
