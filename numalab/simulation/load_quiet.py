"""The part of the load that is quiet: one call alone, and what makes its outcome interesting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.inode import Device
from numalab.simulation.cluster import PAGE_SIZE
from numalab.simulation.draws import Region, TaskModel
from numalab.simulation.quiet import Asked, QuietCall
from protocol.files import SetDevice
from protocol.syscalls import CpusetDirectory, CpusetWrite

if TYPE_CHECKING:
    from numalab.simulation.load import Driver

#: A call that takes longer may have met a node that gave up on a peer, which counts as -EAGAIN.
UNDISTURBED_SECONDS = 4.0
#: So often is memory stored to that the call is then about; of a file, if there are files.
TOUCHED = 0.6
#: How its device is when it is then written back; None: it is not.
WRITTEN = (None, None, Device(0), Device.KEEP_BUFFERS, Device.HOLD_WRITEBACK, Device.HOLD_WRITEBACK)


class QuietLoad:
    """While all lanes rest: somebody holds pages, a device misbehaves, and one call is made."""

    def __init__(self, driver: Driver) -> None:
        self._driver, self._draws, self._random = driver, driver.draws, driver.random
        self._client = driver.cluster.clients[0]
        #: What was prepared for the call: a task, and a region of its own.
        self._touched: tuple[TaskModel, Region] | None = None
        self._mix = dict(driver.plan.mix)

    def begin(self) -> None:
        """As soon as nothing at all is under way."""
        driver = self._driver
        if not driver.at_rest():
            driver.world.call(0.05, self.begin)
            return
        driver.quiet_left -= 1
        if not self._draws.tasks:
            driver.go_on()
            return
        self._touched = None
        if self._random.random() >= TOUCHED:
            driver.kinds.upset_a_device(self._client, self._begin_to_hold)
        elif not self._mix["mapfile"]:
            self._touch(driver.kinds.regions())
        elif of_files := driver.kinds.regions(of_files=True):
            self._touch(of_files)
        else:
            driver.kinds.map_shared(self._client, self._begin_to_hold)

    def _touch(self, regions: list[tuple[TaskModel, Region]]) -> None:
        """Pages are there, and those of files are dirty or have just been written."""
        if not regions:
            self._begin_to_hold(None)
            return
        self._touched = task, region = self._random.choice(regions)
        device = self._random.choice(WRITTEN) if region.file else None

        def stored(_: object) -> None:
            if device is None:
                self._begin_to_hold(None)
            else:
                message = SetDevice(region.file, int(device), 1)
                self._driver.ask(self._client, message, self._begin_to_hold)

        self._driver.touch(self._client, task, region, stored)

    def _begin_to_hold(self, _: object) -> None:
        self._hold_some(self._random.choice((0, 0, 1, 3)))

    def _hold_some(self, pages: int) -> None:
        """Another user has references to some pages, or their locks (K 1.48, 1.28)."""
        task = self._draws.task()
        address = self._draws.word(task)
        if not pages or address is None:
            self._call_alone()
            return
        page, locked = address // PAGE_SIZE * PAGE_SIZE, self._random.random() < 0.3
        held = (locked, not locked)
        driver, rest = self._driver, pages - 1
        driver.set_hold(self._client, task.pid, page, held, lambda _: self._hold_some(rest))

    def _call_alone(self) -> None:
        driver = self._driver
        if not driver.cluster.idle():
            driver.world.call(0.05, self._call_alone)
            return
        message = self._draw_call()
        call, began = QuietCall(driver.cluster, message), driver.world.now
        driver.world.call(self._random.uniform(0, 1), self._let_go_on)

        def ended(result: object) -> None:
            if driver.world.now - began < UNDISTURBED_SECONDS:
                driver.tally.update(call.tally())
                driver.findings.extend(call.differences(result))
            driver.release_all(self._client)
            driver.kinds.calm_devices(self._client)
            driver.go_on()

        if isinstance(message, CpusetDirectory | CpusetWrite):
            driver.kinds.cpusets.ask(self._client, message, ended)
        else:
            driver.ask(self._client, message, ended)

    def _draw_call(self) -> Asked:
        if self._mix["cpuset"] and self._random.random() < 0.4:
            return self._driver.kinds.cpusets.draw()
        if self._touched is not None and self._touched[0].pid in self._draws.tasks:
            return self._draws.on_region(*self._touched)
        if self._mix["policy"] and self._random.random() < 0.15:
            return self._draws.set_mempolicy()
        if self._random.random() < 0.25:
            message = self._draws.mbind()
            if message is not None:
                return message
        return self._draws.migrate() if self._random.random() < 0.5 else self._draws.move()

    def _let_go_on(self) -> None:
        """What a forced pass waits for comes: locks and writeback."""
        self._driver.release_all(self._client, pinned=False)
        self._driver.kinds.calm_devices(self._client, Device.HOLD_WRITEBACK)
