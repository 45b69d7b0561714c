"""Sets the clock of one Python process: it is wrong by as many seconds as the file that CLOCK_SHIFT names says now.

Python imports a module of this name by itself when it starts, from a folder on PYTHONPATH. Only the wall clock
is shifted, as an operator's ``date --set`` would: the monotonic clock, by which programs wait, goes on.
"""

import os
import time
from pathlib import Path

_path = Path(os.environ["CLOCK_SHIFT"])
_time_ns = time.time_ns


def _shifted_ns() -> int:
    return _time_ns() + int(float(_path.read_text()) * 1e9)


time.time_ns = _shifted_ns
time.time = lambda: _shifted_ns() / 1e9
