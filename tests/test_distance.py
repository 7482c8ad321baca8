"""Distance that can be felt: what accesses, faults and migrations cost, and waiting for it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trio

from numalab import connect, local_cluster
from numalab.meter import Meter
from protocol.core import ConfigurationError
from protocol.distance import Distance, Work
from protocol.messages import Done, HoldPages, LoadBytes
from protocol.notes import EmulatedTimeAccrued
from protocol.observe import Accrue, AskPace, EmulatedTime, Pace, ReadEmulated
from protocol.presets import PRESETS
from protocol.topology import Costs, Topology, TopologyNode
from tests.calls import migration
from tests.lab import Lab
from tests.live import Numalab

MakeLab = Callable[..., Lab]
EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "distance.py"
PAGE = 4096


def two_nodes(**costs: object) -> Topology:
    """Distances 10 and 20; nodes 0 and 3."""
    nodes = (TopologyNode(0, 64, (0,)), TopologyNode(3, 64, (1,)))
    return Topology(nodes, ((10, 20), (20, 10)), **costs)  # type: ignore[arg-type]


def access_ns(machine: Topology, cpu_node: int, nid: int, accesses: int, nbytes: int) -> float:
    column = [np.array([number]) for number in (cpu_node, nid, accesses, nbytes)]
    return float(Distance(machine).access_ns(Work(*column))[0])


# ---- the model -----------------------------------------------------------------------------


def test_without_costs_twice_the_distance_is_twice_the_latency_and_half_the_bandwidth() -> None:
    assert access_ns(two_nodes(), 0, 0, 1, 0) == 80.0
    assert access_ns(two_nodes(), 0, 3, 1, 0) == 160.0
    assert access_ns(two_nodes(), 0, 0, 0, 20_000) == 1000.0
    assert access_ns(two_nodes(), 3, 0, 0, 20_000) == 2000.0


def test_costs_that_are_said_count_and_not_the_distances() -> None:
    machine = two_nodes(latencies=((70, 300), (200, 90)), bandwidths=((40, 8), (4, 40)))
    assert access_ns(machine, 0, 3, 3, 800) == 3 * 300 + 100
    assert access_ns(machine, 3, 0, 3, 800) == 3 * 200 + 200


def test_a_batch_is_what_its_rows_are_one_by_one() -> None:
    distance = Distance(PRESETS["eight-node-ring"]())
    rng = np.random.default_rng(7)
    rows = [rng.integers(0, high, 50) for high in (8, 8, 100, 10_000)]
    together = distance.access_ns(Work(*rows))
    for row in range(50):
        alone = distance.access_ns(Work(*(column[row : row + 1] for column in rows)))
        assert alone[0] == together[row]


def test_a_migration_is_a_call_its_pages_and_their_bytes() -> None:
    distance = Distance(two_nodes())
    assert distance.migrate_call_ns() == 58_700.0
    assert distance.migrate_pages_ns(0, 3, 1000) == pytest.approx(1000 * (2600 + PAGE / 3.51))


def test_a_copy_is_no_faster_than_the_way_between_the_nodes() -> None:
    slow = Distance(two_nodes(bandwidths=((20, 2), (2, 20))))
    assert slow.migrate_pages_ns(0, 3, 1) == pytest.approx(2600 + PAGE / 2)


def test_every_cost_of_the_kernel_can_be_set() -> None:
    costs = Costs(fault_ns=0.5, migrate_call_us=1, migrate_page_us=2, migrate_gb_per_s=4)
    distance = Distance(two_nodes(costs=costs))
    assert distance.migrate_call_ns() == 1000.0
    assert distance.migrate_pages_ns(0, 3, 1) == 2000 + PAGE / 4
    assert distance.fault_ns(0, 3, 2) == 2 * (0.5 + PAGE / 10)


# ---- what accrues --------------------------------------------------------------------------


def emulated(lab: Lab) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Nanoseconds of each task and each node: load, store, fault, migration (and wall)."""
    told = lab.ask(ReadEmulated(), EmulatedTime)
    assert told.columns == ("load", "store", "fault", "migration", "wall")
    tables = []
    for keys, table in ((told.pid, told.task_ns), (told.nid, told.node_ns)):
        rows = table.reshape(-1, 5)[:, :4].tolist()
        tables.append(dict(zip(keys.tolist(), rows, strict=True)))
    return tables[0], tables[1]


def accrue(pid: int, cpu: int, nid: int, store: int, accesses: int, nbytes: int) -> Accrue:
    return Accrue(
        np.array([pid], np.int32),
        np.array([cpu], np.uint32),
        np.array([nid], np.uint8),
        np.array([store], np.uint8),
        np.array([accesses], np.uint64),
        np.array([nbytes], np.uint64),
        np.zeros(0, np.int32),
        np.zeros(0, np.uint64),
    )


def test_accesses_accrue_to_the_task_and_to_the_node_of_the_pages(lab: Lab) -> None:
    pid = lab.spawn()
    assert lab.call(accrue(pid, 0, 0, 0, 10, 2000)) == 0
    assert lab.call(accrue(pid, 0, 2, 1, 10, 2000)) == 0
    tasks, nodes = emulated(lab)
    assert tasks == {pid: [900, 1800, 0, 0]}
    assert nodes == {0: [900, 0, 0, 0], 2: [0, 1800, 0, 0]}
    assert lab.noted(EmulatedTimeAccrued)[-1] == EmulatedTimeAccrued("store", 2, 1.8e-6)


@pytest.mark.parametrize(("cpu", "nid"), [(99, 0), (0, 99)])
def test_what_is_on_no_node_is_refused(lab: Lab, cpu: int, nid: int) -> None:
    assert lab.call(accrue(lab.spawn(), cpu, nid, 0, 1, 1)) == -22
    assert emulated(lab) == ({}, {})


def test_faults_and_migrations_accrue_where_they_end(make_lab: MakeLab) -> None:
    costs = Costs(fault_ns=100, migrate_call_us=1, migrate_page_us=0.5, migrate_gb_per_s=0.064)
    frames = [TopologyNode(nid, 64, (nid,)) for nid in range(2)]
    machine = Topology(tuple(frames), ((10, 20), (20, 10)), 64, None, ((0.64,) * 2,) * 2, costs)
    lab = make_lab(topology=machine)
    pid = lab.spawn()
    start = lab.mapped(pid, 10)
    each = 100 + 64 / 0.64
    assert emulated(lab) == ({pid: [0, 0, 10 * each, 0]}, {0: [0, 0, 10 * each, 0]})
    lab.hold_pages(lab.fault(pid, start, 2), pinned=1)
    assert lab.migrate(pid, 0, 1) == 2
    moved = 8 * (500 + 64 / 0.064)
    tasks, nodes = emulated(lab)
    assert tasks[pid][3] == 1000 + moved
    assert (nodes[0][3], nodes[1][3]) == (1000, moved)
    told = lab.ask(ReadEmulated(), EmulatedTime)
    assert told.migration_pid.tolist() == [pid]
    assert (told.migration_pages.tolist(), told.migration_ns.tolist()) == ([8], [1000 + moved])


def test_a_page_that_is_there_already_costs_no_fault(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 3)
    before = emulated(lab)
    lab.fault(pid, start, 3)
    assert emulated(lab) == before


@pytest.mark.parametrize("populate", [2, 3])
def test_an_image_that_is_filled_in_costs_nothing(lab: Lab, populate: int) -> None:
    pid = lab.spawn()
    lab.fault(pid, lab.mmap(pid, 5), 5, access=populate)
    assert emulated(lab) == ({}, {})


def test_a_copy_on_write_is_a_fault_too(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 4)
    child = lab.fork(pid)
    lab.fault(child, start, 3)
    assert emulated(lab)[0][child][2] == pytest.approx(3 * (500 + 64 / 20), abs=1)


def test_of_a_task_that_is_gone_only_the_nodes_tell(lab: Lab) -> None:
    pid = lab.spawn()
    lab.mapped(pid, 4)
    lab.exit(pid)
    assert lab.call(accrue(pid, 0, 1, 0, 1, 0)) == 0
    tasks, nodes = emulated(lab)
    assert tasks == {} and nodes[0][2] > 0 and nodes[1][0] == 160


# ---- at a pace -----------------------------------------------------------------------------


def test_a_migration_at_a_pace_ends_when_its_emulated_time_is_over(make_lab: MakeLab) -> None:
    lab = make_lab(pace=10_000)
    pid = lab.spawn()
    start = lab.mapped(pid, 10)
    asked = lab.start(migration(0, pid, (0,), (1,)))
    until = 10_000 * 1e-9 * (58_700 + 10 * (2600 + 64 / 3.51))
    lab.wait(until * 0.99)
    assert lab.answer_to(asked) is None
    assert lab.where(pid, start, 10) == [1] * 10, "they have arrived, the call has not returned"
    lab.wait(until * 0.02)
    answer = lab.answer_to(asked)
    assert isinstance(answer, Done) and answer.value == 0
    told = lab.ask(ReadEmulated(), EmulatedTime)
    assert told.migration_wall_ns[0] == pytest.approx(until * 1e9, rel=0.001)


def pace_of(lab: Lab) -> Pace:
    return lab.ask(AskPace(), Pace)


def question(rows: int, size: int) -> LoadBytes:
    column = np.zeros(rows, np.uint32)
    return LoadBytes(size, column, column, column)


def test_a_client_knows_what_its_accesses_cost_where_it_keeps_a_pace(make_lab: MakeLab) -> None:
    meter = Meter()
    meter.keep_pace(pace_of(make_lab(pace=2.0)), None)
    assert meter.pace == 2.0
    assert meter.served(7, 1, 1, question(10, 200), 10) == pytest.approx((800 + 100) * 1e-9)
    assert meter.served(7, 1, 2, question(10, 200), 5) == pytest.approx((800 + 100) * 1e-9)
    meter.keep_pace(pace_of(make_lab()), 5.0)
    assert meter.pace == 5.0
    for pace in (-1.0, 1e308, float("nan")):
        with pytest.raises(ConfigurationError, match="cannot be kept: give a number from 0"):
            meter.keep_pace(pace_of(make_lab()), pace)


def test_a_meter_tells_each_access_once_and_nothing_else() -> None:
    meter = Meter()
    held = np.zeros(1, np.uint32)
    meter.served(7, 0, 1, HoldPages(held, held, held.astype("u1"), held.astype("u1")), 1)
    assert meter.take() is None
    for _ in range(3):
        meter.served(7, 0, 1, question(10, 8), 9)
    meter.waited(7, 0.25)
    told = meter.take()
    assert told is not None
    assert (told.pid.tolist(), told.nid.tolist(), told.store.tolist()) == ([7], [1], [0])
    assert (told.accesses.tolist(), told.bytes.tolist()) == ([27], [216])
    assert (told.waiter.tolist(), told.waited_ns.tolist()) == ([7], [250_000_000])
    assert meter.take() is None


# ---- a machine that runs -------------------------------------------------------------------


async def test_loads_and_stores_are_told_and_waited_for() -> None:
    machine_of = local_cluster(topology=PRESETS["dram-cxl"](), pace=1000.0, metrics=False)
    async with machine_of as machine:
        task = await machine.spawn(cpu=0)
        address = await task.mmap(64 * PAGE)
        started = trio.current_time()
        await task.store(address, bytes(64 * PAGE))
        wall = trio.current_time() - started
        spent = await task.emulated_time()
        assert spent.store == pytest.approx((64 * 80 + 64 * PAGE / 40) * 1e-9, abs=2e-9)
        assert spent.fault == pytest.approx(64 * (500 + PAGE / 40) * 1e-9, abs=2e-9)
        assert wall >= spent.store * 1000 and spent.wall == pytest.approx(wall, rel=0.5)
        nodes = (await machine.emulated()).nodes
        assert nodes[0].store == spent.store and 1 not in nodes
        async with connect(machine.run_directory, pace=0.0) as hasty:
            other = await hasty.attach(task.pid)
            await other.load(address, 64 * PAGE)
            assert (await other.emulated_time()).load == pytest.approx(spent.store, abs=2e-9)


def test_the_example_of_the_documentation_does_what_the_model_says() -> None:
    ran = subprocess.run(
        [sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=100
    )
    assert ran.returncode == 0, ran.stderr
    line = re.compile(r"(.+?) +(\d+\.\d) us emulated +(\d+\.\d) ms on the clock")
    found = [line.fullmatch(text) for text in ran.stdout.splitlines()]
    told = {match[1]: (float(match[2]), float(match[3])) for match in found if match}
    pages, latency, speed = 256, (80, 250), (40, 12)
    near, far = (pages * (latency[at] + PAGE / speed[at]) / 1e3 for at in (0, 1))
    model = {
        "far": far,
        "256 pages move": 58.7 + pages * (2.6 + PAGE / 3.51e3),
        "near": near,
        "interleaved": (near + far) / 2,
        "local": near,
    }
    assert {name: us for name, (us, _) in told.items()} == pytest.approx(model, abs=0.1)
    for name, (us, ms) in told.items():
        assert ms >= us * 0.999, f"{name}: the clock ran ahead of the model"


def test_the_commands_tell_of_emulated_time(numalab: Numalab, run_directory: Path) -> None:
    async def start() -> int:
        with trio.fail_after(20):
            async with connect(run_directory) as machine:
                task = await machine.spawn(leased=False)
                await task.store(await task.mmap(100 * PAGE), bytes(100 * PAGE))
                return task.pid

    pid = trio.run(start)
    moved = numalab("migratepages", pid, "0", "1", "--time")
    model = 58.7e-6 + 100 * (2.6e-6 + PAGE / 3.51e9)
    assert (moved.code, moved.out) == (0, "")
    assert moved.err.startswith(f"{model * 1e3:.3f} ms of emulated time, ")
    back = numalab("migratepages", pid, "1", "0", "--json").document
    assert back["emulated"] == pytest.approx(model, abs=2e-9) and back["wall"] > 0
    listed = {task["pid"]: task for task in numalab("ps", "--json").document["tasks"]}
    spent = numalab("emulated", "--json").document["tasks"][str(pid)]
    assert spent["migration"] == pytest.approx(2 * model, abs=4e-9)
    parts = (spent[name] for name in ("load", "store", "fault", "migration"))
    assert listed[pid]["emulated"] == pytest.approx(sum(parts))
    assert f"task {pid}" in numalab("emulated").out

    async def end() -> None:
        with trio.fail_after(20):
            async with connect(run_directory) as machine:
                await (await machine.attach(pid)).exit()

    trio.run(end)
