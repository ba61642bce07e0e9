"""For the tests with random files: number of examples, values that options are damaged to, a limit of time."""

import contextlib
import math
import os
import signal

import pytest
from hypothesis import HealthCheck, Phase

# Without shrinking, which takes minutes.
QUIET = dict(deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
# More examples: LIGHTBSR_FUZZ=1000 python -m pytest tests/faults -k fuzzed
EXAMPLES = int(os.environ.get("LIGHTBSR_FUZZ", 50))
CPU_SECONDS, SECONDS = 30, 600  # for one file; the second on a machine that does much else
DAMAGES = [None, True, -1, 10**12, 0.5, math.nan, math.inf, "", "x", "a" * 500, "../..", "\x00", [], [[]], {}, {1: 2}]
DAMAGES += [{"type": "x"}, {"type": None}, {"type": "L1Loss"}, {"sigma": -1}, {"name": "a"}, "{}", "~x", "import os"]


def paths(node, at=()):
    """The path of every value in a nested dictionary."""
    for key, value in node.items():
        yield (*at, key)
        if isinstance(value, dict):
            yield from paths(value, (*at, key))


def section_of(options, path):
    """The innermost section on a path that is there."""
    for key in path[:-1]:
        if not isinstance(options.get(key), dict):
            return options
        options = options[key]
    return options


@contextlib.contextmanager
def time_limit():
    """Fail where the block computes too long, or waits too long."""
    alarms = {signal.SIGPROF: (signal.ITIMER_PROF, CPU_SECONDS), signal.SIGALRM: (signal.ITIMER_REAL, SECONDS)}
    before = {number: signal.signal(number, lambda *_: pytest.fail("takes too long")) for number in alarms}
    try:
        for timer, seconds in alarms.values():
            signal.setitimer(timer, seconds)
        yield
    finally:
        for number, (timer, _) in alarms.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])
