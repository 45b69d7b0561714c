"""The blowout: many real clients, then thousands of simulated ones, asked by many at once; and was it all right?

    python benchmarks/blowout.py                                   # 200 clients, then 10,000 simulated nodes
    python benchmarks/blowout.py --clients 20 --nodes 1000         # in some minutes

RabbitMQ is a private one, unless VOGELER_QHOST names another; CouchDB as engines.py has it. In order:

1. ``--clients`` processes, asked for different aliases and targets by ``--runners`` runners at once; the checker of the
   tests compares what the plugins wrote down with what is stored and what the runners said.
2. ``--small`` simulated nodes, then ``--nodes`` of them, asked by one runner: what a run on a node costs each part.
3. All of them asked by ``--runners`` runners at once, with different aliases and targets.
4. A steady load, of three plugins every 30 minutes on each node, ``--speed`` times as fast; then, on top of it,
   200 times the load of an ordinary fleet: everybody is asked for everything, within nine seconds.

In the end everything that the nodes collected is compared with the store and with what the runners said. A simulated
node is a real client with a connection of its own, whose plugins are functions: see simulator.py. Ends with code 1
when something was not as it must be. Prints tables; draws a chart (matplotlib).
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import audit, chart, limits
from benchmarks.broadcast import reaped_s
from benchmarks.progress import show
from benchmarks.simulator import KEYS, Simulator, Slice, node_name
from benchmarks.trial import Trial, trial
from benchmarks.watched import Watched
from tests.faults import checker, stored
from tests.faults.truth import TruthLog

_ROUNDS = 3
_IDLE_S = 15.0
_EVERY_S = 1800.0  # how often each plugin of an ordinary fleet runs
_BURST = 200
_LIMIT_S = 900.0
_SETTLE_S, _QUIET = 3.0, 0.15
_STARTING_AT_ONCE = 2  # processes of simulated nodes
_STOPPING_AT_ONCE = 4
_RUNS_MEASURED, _MOST_ROUNDS = 1000, 10  # on few nodes


@dataclass(frozen=True)
class Cost:
    """Seconds of processor time by part; ``idle``: per second, while nobody asks."""

    nodes: int
    name: str
    runs: int
    wall_s: float
    cpu_s: dict[str, float]
    idle: dict[str, float]

    def each_ms(self, part: str) -> float:
        """Milliseconds of processor time per node and run, without what the idle fleet takes meanwhile."""
        return (self.cpu_s[part] - self.idle.get(part, 0.0) * self.wall_s) / self.runs * 1e3


@dataclass
class Found:
    """What the simulated nodes showed: costs, and lines, which are printed as they come."""

    costs: list[Cost] = field(default_factory=list)

    def add(self, line: str) -> None:
        """One more line."""
        show("")
        print(line, flush=True)


def main() -> int:
    """Everything in order. The exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped
    arguments = _parser().parse_args()
    limits.raise_and_check(arguments.nodes, arguments.per_process)
    problems = []
    for part, count in ((real, arguments.clients), (simulated, arguments.nodes)):
        if count:
            with tempfile.TemporaryDirectory(prefix="vogeler-blowout-") as folder:
                with trial(Path(folder), arguments.servers) as one:
                    lines = part(one, arguments)
                show("")
                report(one, lines)
                chart.draw(arguments.chart.with_name(f"{part.__name__}-{arguments.chart.name}"), one)
                problems += one.problems
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200, help="real client processes; 0: none (%(default)s)")
    parser.add_argument("--nodes", type=int, default=10_000, help="simulated nodes; 0: none (%(default)s)")
    parser.add_argument("--small", type=int, default=100, help="as few as to compare with (%(default)s)")
    parser.add_argument("--runners", type=int, default=6, help="at once (%(default)s)")
    parser.add_argument("--servers", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--per-process", type=int, default=250, help="simulated nodes (%(default)s)")
    parser.add_argument("--speed", type=float, default=10.0, help="of the steady load (%(default)s)")
    parser.add_argument("--steady", type=float, default=60.0, help="how long it is measured, in seconds (%(default)s)")
    parser.add_argument("--heartbeat", type=float, default=60.0, help="of a node, in seconds (%(default)s)")
    parser.add_argument(
        "--settle",
        type=float,
        default=180.0,
        help="the store may go on so long between phases, in seconds (%(default)s)",
    )
    parser.add_argument("--chart", type=Path, default=Path("blowout.png"), help="(%(default)s)")
    return parser


# --- real clients ---------------------------------------------------------------------------------


def real(one: Trial, arguments: argparse.Namespace) -> list[str]:
    """Real processes, real plugins; the checker of the tests compares it all."""
    truth = TruthLog(one.folder)
    nodes = [f"real{number:04d}" for number in range(arguments.clients)]
    one.begin(f"{len(nodes)} clients start")
    clients = [one.fleet.client(node, "--plugins", str(truth.plugins_of(node))) for node in nodes]
    one.parts.add("nodes", *(client.process.pid for client in clients))
    lines = [f"{len(nodes)} client processes are known after {one.wait_known(len(nodes), _LIMIT_S):.1f} s"]
    some = ("all", f"{nodes[0][:-2]}*", ",".join(nodes[: len(nodes) // 2]), ",".join(nodes[1::2]))
    questions = [(("quick", "slow", "moody", "probe")[n % 4], some[(n + n // 4) % 4]) for n in range(arguments.runners)]
    for number in range(_ROUNDS):
        one.begin(f"{len(questions)} runners at once, {number + 1}")
        one.ask_at_once(f"round {number + 1}", questions, nodes)
    one.wait_stored(_LIMIT_S)
    one.begin("stop")
    one.stop_daemons()
    seen = checker.Seen(truth.runs(), stored.read(one.on.dbhost), [run.asked for _, run in one.runners], suspects=())
    one.problems += checker.violations(seen)
    return lines


# --- simulated nodes ------------------------------------------------------------------------------


def simulated(one: Trial, arguments: argparse.Namespace) -> list[str]:
    """Thousands of nodes: what they cost, many runners at once, a steady load, and a burst on top."""
    found = Found()
    names = [node_name(number) for number in range(arguments.nodes)]
    few, many = names[: arguments.small], names[arguments.small :]
    simulators = _start(one, few, arguments, found)
    _measure(one, arguments, few, simulators, found)
    if many:
        simulators += _start(one, many, arguments, found)
        _measure(one, arguments, names, simulators, found)
    groups = ("all", "group:web", "app*,db*", "group:fra,group:ams", "*.iad", "group:cache,mail*,queue0*")
    questions = [(KEYS[n % len(KEYS)], groups[n % len(groups)]) for n in range(arguments.runners)]
    one.begin(f"{len(questions)} runners at once")
    _on_all(simulators, "change", KEYS)
    one.ask_at_once("at once", questions, names)
    found.add(f"{len(questions)} runners at once: {_again(simulators)}; {_settled(one, arguments.settle)}")
    _steady_and_burst(one, arguments, names, simulators, found)
    sent = _stop(one, simulators)
    one.wait_stored(_LIMIT_S)
    one.stop_daemons()
    left = one.sampler.next()
    one.problems += [f"{count} messages {which} when all was over" for which, count in left.items() if count]
    show("everything is compared with the store")
    history = audit.history(one.on.dbhost)
    again = audit.repeated(history)
    found.add(f"{len(again)} of {len(history)} changes hold what the change before them held: two servers at once")
    one.problems += audit.violations(one.on.dbhost, history, sent, [run.asked for _, run in one.runners])
    return _growth(found.costs)


def _start(one: Trial, names: Sequence[str], arguments: argparse.Namespace, found: Found) -> list[Simulator]:
    """Processes with these nodes, all connected and known."""
    one.begin(f"{len(names)} more nodes connect")
    known = sum(cost.nodes for cost in found.costs[-1:])
    slices = [names[first : first + arguments.per_process] for first in range(0, len(names), arguments.per_process)]
    simulators = [
        Simulator(
            Slice(one.on.qhost, tuple(each), len(each[0]) + int(each[0].partition(".")[0][-5:]), arguments.heartbeat)
        )
        for each in slices
    ]
    one.parts.add("nodes", *(simulator.pid for simulator in simulators))
    began = one.parts.now()
    with ThreadPoolExecutor(_STARTING_AT_ONCE) as pool:
        pool.map(_connect, simulators)
        took_s = one.wait("connected", lambda: sum(s.connected.value for s in simulators), len(names), _LIMIT_S)
    known_s = one.wait_known(known + len(names), _LIMIT_S)
    ended = one.parts.now()
    found.add(
        f"{len(names)} more nodes: connected after {took_s:.1f} s, {len(names) / took_s:.0f} a second; known to the"
        f" store {known_s:.1f} s later; processor time: {_by_part(ended.since(began), 1e3 / len(names), 'ms a node')}"
    )
    found.add(f"  they hold: {_by_part(ended.rss_mib, 1 / 1024, 'GiB')}")
    return simulators


def _connect(simulator: Simulator) -> None:
    """Start its nodes, and return when they are connected, or when that takes too long."""
    simulator.ask("start")
    deadline_s = time.monotonic() + _LIMIT_S
    while simulator.connected.value < len(simulator.nodes.names) and time.monotonic() < deadline_s:
        time.sleep(0.1)


def _on_all(simulators: Sequence[Simulator], what: str, *values: Any) -> list[Any]:
    """Ask all processes, and wait for their answers."""
    with ThreadPoolExecutor(len(simulators)) as pool:
        return list(pool.map(lambda simulator: simulator.ask(what, *values), simulators))


def _measure(
    one: Trial, arguments: argparse.Namespace, names: Sequence[str], simulators: Sequence[Simulator], found: Found
) -> None:
    """What it costs that nobody asks, that everybody has something new, and that nobody has."""
    one.begin(f"{len(names)} nodes, idle")
    before = one.parts.now()
    time.sleep(_IDLE_S)
    after = one.parts.now()
    idle = {part: used_s / (after.at_s - before.at_s) for part, used_s in after.since(before).items()}
    found.add(f"{len(names)} idle nodes: {_by_part(idle, 1, 'processors')}")
    rounds = min(max(_RUNS_MEASURED // len(names), 1), _MOST_ROUNDS)
    for name in ("changed", "unchanged"):
        one.begin(f"{len(names)} nodes, {name}")
        began, before_s, wall_s, total = one.parts.now(), reaped_s(), 0.0, Counter[str]()
        for _ in range(rounds):
            if name == "changed":
                _on_all(simulators, "change", KEYS[:1])
            began, before_s = one.parts.now(), reaped_s()
            wall_s += one.ask(f"{len(names)} nodes, {name}", KEYS[0], "all", names).took_s
            total.update({**one.parts.now().since(began), "runner": reaped_s() - before_s})
        found.costs.append(Cost(len(names), name, rounds * len(names), wall_s, dict(total), idle))
        cost = found.costs[-1]
        each = _by_part({part: cost.each_ms(part) for part in cost.cpu_s}, 1, "ms a node and run")
        found.add(f"{len(names)} nodes, {name}: {wall_s / rounds:.1f} s; {each}; {_settled(one, arguments.settle)}")


def _settled(one: Trial, limit_s: float) -> str:
    """Wait until the store has little to do, as far as there is time: it indexes what has changed."""
    began = before = one.parts.now()
    while before.at_s - began.at_s < limit_s:
        time.sleep(_SETTLE_S)
        after = one.parts.now()
        if after.since(before).get("store", 0.0) < _QUIET * _SETTLE_S:
            break
        before = after
    used = before.since(began).get("store", 0.0)
    return f"the store went on for {before.at_s - began.at_s:.0f} s, with {used:.1f} s of processor time"


def _steady_and_burst(
    one: Trial, arguments: argparse.Namespace, names: Sequence[str], simulators: Sequence[Simulator], found: Found
) -> None:
    """All plugins of all nodes by schedule; and 200 times an ordinary fleet's load on top."""
    one.begin(f"steady, {arguments.speed:g} times as fast")
    interval_s = _EVERY_S / arguments.speed
    _on_all(simulators, "schedule", interval_s)
    used, count, took_s = _during(one, simulators, lambda: time.sleep(arguments.steady))
    found.add(
        f"steady: {count / took_s:.0f} results a second were collected; {_waited(one)};"
        f" {_by_part(used, 1 / took_s, 'processors')}"
    )
    splay_s = _EVERY_S / _BURST
    one.begin(f"burst of {_BURST} times an ordinary load")
    _on_all(simulators, "change", KEYS)
    burst: list[Watched] = []
    questions = [(key, "all") for key in KEYS]
    ask = lambda: burst.extend(one.ask_at_once("burst", questions, names, "--splay", f"{splay_s:g}s"))  # noqa: E731
    used, count, took_s = _during(one, simulators, ask)
    found.add(
        f"burst: {len(KEYS) * len(names)} runs asked for within {splay_s:g} s beside the steady load, done after"
        f" {max(run.took_s for run in burst):.1f} s; {_waited(one)}; {_by_part(used, 1 / took_s, 'processors')}"
    )
    one.begin("steady again")
    waited_s = one.wait_stored(_LIMIT_S)
    found.add(f"  nothing waited any more {waited_s:.1f} s after the last runner's end; {_again(simulators)}")


def _waited(one: Trial) -> str:
    return f"at most {one.sampler.most('waiting', one.phases[-1][0])} waited for a server"


def _again(simulators: Sequence[Simulator]) -> str:
    count = sum(simulator.connected.value - len(simulator.nodes.names) for simulator in simulators)
    return f"nodes had connected anew {count} times"


def _during(
    one: Trial, simulators: Sequence[Simulator], act: Callable[[], object]
) -> tuple[dict[str, float], int, float]:
    """What the parts used, how much was collected, and how long it took, while something was done."""
    began, before = one.parts.now(), sum(simulator.collected.value for simulator in simulators)
    act()
    ended = one.parts.now()
    return ended.since(began), sum(s.collected.value for s in simulators) - before, ended.at_s - began.at_s


def _stop(one: Trial, simulators: list[Simulator]) -> dict[str, dict[str, list[str]]]:
    """Stop all nodes, some processes at a time. What they collected."""
    one.begin("stop")
    sent: dict[str, dict[str, list[str]]] = {}
    with ThreadPoolExecutor(_STOPPING_AT_ONCE) as pool:
        for number, part in enumerate(pool.map(_stop_one, simulators), 1):
            show(f"stopped: {number} of {len(simulators)} processes")
            sent.update(part)
    return sent


def _stop_one(simulator: Simulator) -> dict[str, dict[str, list[str]]]:
    sent: dict[str, dict[str, list[str]]] = simulator.ask("stop")
    simulator.kill()
    return sent


# --- what is printed ------------------------------------------------------------------------------


def report(one: Trial, lines: Sequence[str]) -> None:
    """Everything, for a person."""
    print(f"== {one.on.about}")
    print("", *lines, sep="\n")
    print(f"\n{'runner':36} times  nodes       50 %     95 %     99 %    100 %  stages of the last")
    for name, runs in one.by_name().items():
        reached = zip(*(run.reached_s() for run in runs))
        times = " ".join(f"{statistics.median(each_s):6.2f} s" for each_s in reached)
        stages = Counter(row["stage"] for row in runs[-1].asked.rows.values())
        ended = ", ".join(f"{count} {stage}" for stage, count in sorted(stages.items()))
        print(f"{name:36} {len(runs):5} {len(runs[-1].asked.rows):6}   {times}  {ended}")
    print("\nheld at most: " + _by_part(one.sampler.largest_mib(), 1 / 1024, "GiB"))
    print(f"{len(one.problems)} things are not as they must be" if one.problems else "all that must hold holds")
    print(*one.problems[:100], sep="\n", end="\n\n")


def _growth(costs: Sequence[Cost]) -> list[str]:
    """Cost as the fleet grows: processor time per node and run by part, and the ratio of the last to the first."""
    lines = ["milliseconds of processor time per node and run, without what idle nodes take:"]
    parts = [*costs[0].cpu_s]
    lines.append(f"{'':26}" + "".join(f"{part:>10}" for part in (*parts, "all")))
    rows: dict[tuple[str, int], list[float]] = {}
    for cost in costs:
        each = [cost.each_ms(part) for part in parts]
        rows[cost.name, cost.nodes] = [*each, sum(each)]
        lines.append(_row(f"{cost.nodes} nodes, {cost.name}", rows[cost.name, cost.nodes]))
    few, many = costs[0].nodes, costs[-1].nodes
    if few != many:
        for name in ("changed", "unchanged"):
            ratios = [b / a if a > 0 else 0.0 for a, b in zip(rows[name, few], rows[name, many])]
            lines.append(_row(f"{many} ÷ {few}, {name}", ratios))
    return lines


def _row(name: str, values: Sequence[float]) -> str:
    return f"{name:26}" + "".join(f"{value:10.2f}" for value in values)


def _by_part(values: Mapping[str, float], factor: float, unit: str) -> str:
    return ", ".join(f"{part} {value * factor:.2f}" for part, value in values.items()) + f" {unit}"


if __name__ == "__main__":
    sys.exit(main())
