"""The picture of a blowout: how far the runners had come, what each part used and held, what waited in the queue."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.parts import Sampler
from benchmarks.trial import Trial
from benchmarks.watched import Watched


def draw(path: Path, trial: Trial) -> None:
    """Into a file, in the format of its name."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (top, middle, bottom) = pyplot.subplots(3, 1, figsize=(12, 13), constrained_layout=True)
    figure.suptitle(trial.on.about)
    _runs(top, {name: runs[-1] for name, runs in trial.by_name().items()})
    zero_s = trial.phases[0][0]
    _cores(middle, trial.sampler, zero_s)
    _queue_and_memory(bottom, trial.sampler, zero_s)
    for axes in (middle, bottom):
        for at_s, name in trial.phases:
            axes.axvline(at_s - zero_s, color="grey", linewidth=0.6)
            axes.text(at_s - zero_s, axes.get_ylim()[1], f" {name}", rotation=90, va="top", fontsize=7)
        axes.set_xlabel("seconds")
        axes.legend(loc="upper left", fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _runs(axes: Any, runners: Mapping[str, Watched]) -> None:
    for name, watched in runners.items():
        total = max(len(watched.asked.rows), 1)
        points = [(0.0, 0), *watched.progress, (watched.took_s, total)]
        axes.plot([at_s for at_s, _ in points], [100 * done / total for _, done in points], label=name)
    axes.set_ylabel("% of the nodes done")
    axes.set_xlabel("seconds since the runner's start")
    axes.legend(loc="lower right", fontsize=6, ncols=2)


def _cores(axes: Any, sampler: Sampler, zero_s: float) -> None:
    pairs = list(zip(sampler.snapshots, sampler.snapshots[1:]))
    for part in sampler.snapshots[-1].cpu_s if pairs else ():
        cores = [max(after.since(before).get(part, 0.0), 0.0) / (after.at_s - before.at_s) for before, after in pairs]
        axes.plot([after.at_s - zero_s for _, after in pairs], cores, label=part, linewidth=1)
    axes.set_ylabel("processors in use")


def _queue_and_memory(axes: Any, sampler: Sampler, zero_s: float) -> None:
    for part in sampler.snapshots[-1].rss_mib if sampler.snapshots else ():
        held = [(s.at_s - zero_s, s.rss_mib.get(part, 0.0) / 1024) for s in sampler.snapshots]
        axes.plot([at_s for at_s, _ in held], [gib for _, gib in held], label=part, linewidth=1)
    axes.set_ylabel("GiB held")
    other = axes.twinx()
    waiting = [(at_s - zero_s, numbers["waiting"]) for at_s, numbers in sampler.numbers]
    other.fill_between([at_s for at_s, _ in waiting], [count for _, count in waiting], alpha=0.2, color="black")
    other.set_ylabel("results that wait for a server (grey)")
