"""Stop training in order: one flag, set by a signal or a time limit, which training looks at once a step."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

EXIT_STOPPED = 75  # EX_TEMPFAIL: training has stopped and saved; --auto_resume goes on
_SECOND_SIGNAL_AFTER = 1.0  # seconds; a launcher passes on the signal that the terminal has already sent

_requested_at: float | None = None  # time.monotonic()


def stop_requested() -> bool:
    """Whether training is to stop after the present step."""
    return _requested_at is not None


def _request_stop(message: bytes) -> None:
    global _requested_at
    _requested_at = time.monotonic()
    os.write(2, message)  # a signal may come while print is at work


def _on_signal(number: int, frame: FrameType | None) -> None:
    if _requested_at is None:
        _request_stop(b"lightbsr: stopping after this step; a second signal stops at once\n")
    elif time.monotonic() - _requested_at > _SECOND_SIGNAL_AFTER:
        raise KeyboardInterrupt


def _on_time_limit() -> None:
    if _requested_at is None:
        _request_stop(b"lightbsr: the time limit is reached: stopping after this step\n")


@contextlib.contextmanager
def stopping_in_order(time_limit: float | None = None) -> Iterator[None]:
    """Within this block SIGTERM and SIGINT let training finish its step, save and exit with ``EXIT_STOPPED``.

    A second signal raises KeyboardInterrupt at once.

    Args:
        time_limit: seconds after which training stops in the same way; None: no limit.
    """
    global _requested_at
    _requested_at = None
    before = {number: signal.signal(number, _on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    timer = threading.Timer(time_limit or 0, _on_time_limit)
    timer.daemon = True
    if time_limit is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
        _requested_at = None


def outlive_signals(worker_id: int) -> None:
    """``worker_init_fn`` of a data loader: leave the signals that the whole process group gets to the main process.

    It stops when its step is done, and needs its workers until then. A second SIGTERM ends a worker. The handlers are
    functions, so that programs which a worker starts have the usual ones.
    """
    signal.signal(signal.SIGINT, lambda number, frame: None)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(signal.SIGTERM, signal.SIG_DFL) and None)
