"""vogeler-server, with samples of what its threads are at; written as JSON to the file named in SAMPLES at the end.

    SAMPLES=/tmp/samples.json VOGELER_CONFIG=... python benchmarks/sampled_server.py

Every 2 ms the stack of each thread is looked at, from the innermost call outwards, for the first that belongs to a
stage. A thread that waits for the broker or for the other thread is at nothing. SIGUSR1 begins anew.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Optional

from vogeler.cli.server import main

EVERY_S = 0.002
STAGES = {
    "gunzip": ("_unpacked",),
    "decode": ("_read", "_read_lazily", "decode", "decode_stored", "_message", "_check_clock"),
    "digest": ("digest_of",),
    "merge": ("merge", "may_rewrite", "may_change", "by_node", "read"),
    "encode": ("to_json", "document", "change", "write"),
    "copies": ("keep", "keep_without_values", "drop", "find", "get"),
    "HTTP": ("call", "_bulk"),
    "acknowledge": ("ack", "publish_receipts"),
    "deliver": ("_on_delivery", "process_data_events", "receive"),
}
STAGE_OF = {name: stage for stage, names in STAGES.items() for name in names}
WAITING = {"readinto", "wait", "poll", "select", "join", "_next_to_write", "_worker"}


def stage_of(frame: Optional[FrameType]) -> str:
    """What a thread is at; "" for nothing."""
    waits = frame is not None and frame.f_code.co_name in WAITING
    found: list[str] = []
    while frame is not None:
        code = frame.f_code
        if code.co_name in STAGE_OF and ("vogeler" in code.co_filename or "pika" in code.co_filename):
            found.append(STAGE_OF[code.co_name])
        frame = frame.f_back
    if waits:
        return f"waits: {found[0]}" if found[:1] == ["HTTP"] else ""
    return found[0] if found else "rest"


def sample(counts: Counter[str], done: threading.Event) -> None:
    """Until it is done."""
    own = threading.get_ident()
    while not done.wait(EVERY_S):
        for thread, frame in sys._current_frames().items():
            if thread != own:
                counts[stage_of(frame)] += 1
        counts["samples"] += 1


if __name__ == "__main__":
    counted: Counter[str] = Counter()
    ended = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: counted.clear())
    sampler = threading.Thread(target=sample, args=(counted, ended), daemon=True)
    sampler.start()
    try:
        code = main()
    finally:
        ended.set()
        sampler.join()
        Path(os.environ["SAMPLES"]).write_text(json.dumps(counted))
    sys.exit(code)
