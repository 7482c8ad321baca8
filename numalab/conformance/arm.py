"""A scenario on a machine of ours, through the same API that everybody uses (numalab/task.py).

The machine is a live one (numalab/machine.py) or a simulated one (numalab/conformance/sim.py).
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from numalab.conformance.scenario import (
    FIRST,
    PAGE,
    PREFILL,
    Layout,
    RawMask,
    Scenario,
    Step,
    error_name,
    nodes_of,
    prot,
    raw_mask,
    result,
    status_name,
)
from numalab.machine import Machine
from numalab.task import Task
from numalab.work import FaultAccess
from protocol.files import CreateFile, Unlink
from protocol.policies import SetMempolicyHomeNode
from protocol.syscalls import Fault, Translations

Answer = dict[str, Any]
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_LOCKED = 1, 2, 0x10, 0x20, 0x2000
NO_SUCH_PID = 999_999


class NotYet(Exception):
    """The machine has no such call."""


class Arm:
    """The tasks of one scenario on our machine."""

    def __init__(self, machine: Machine, scenario: Scenario) -> None:
        self.machine = machine
        self.steps = scenario.steps
        self.layout = Layout(scenario.steps)
        self.tasks: dict[str, Task] = {}
        self._areas: list[str] = []
        self._files: list[str] = []
        self._cpusets: list[str] = []
        self.answers: list[Answer] = []

    async def run(self) -> list[Answer]:
        """An answer for each step; {"not yet": op} is the last one if a call is missing."""
        answers = self.answers
        try:
            await self.spawn({"task": FIRST, "cpu": 0, "uid": 0})
            for step in self.steps:
                try:
                    answers.append(await self.step(step))
                except NotYet as what:
                    answers.append({"not yet": str(what)})
                    break
        finally:
            await self._leave()
        return answers

    async def _leave(self) -> None:
        for task in self.tasks.values():
            with contextlib.suppress(OSError):
                await task.exit()
        for path in reversed(self._cpusets):
            with contextlib.suppress(OSError):
                await self.machine.cpusets.rmdir(path)
        for name in self._files:
            with contextlib.suppress(OSError):
                await self.machine.call(Unlink(name))

    async def step(self, step: Step) -> Answer:
        before = await self._vmstat()
        carry_out = getattr(self, step["op"], None)
        if carry_out is None:
            raise NotYet(step["op"])
        try:
            answer = await carry_out(step)
        except OSError as error:
            answer = {"errno": error_name(error.errno or 0)}
        after = await self._vmstat()
        if before and after:
            answer |= {"moved": after[0] - before[0], "failed": after[1] - before[1]}
        seen = {name: await self._look(task) for name, task in self.tasks.items()}
        return {**answer, "seen": seen}

    def _method(self, name: str, of: object = None) -> Any:
        """A method of the machine (or of a task) that it may not have."""
        found = getattr(self.machine if of is None else of, name, None)
        if found is None:
            raise NotYet(name)
        return found

    def _by(self, step: Step) -> Task:
        return self.tasks[step.get("by", FIRST)]

    def _pid(self, step: Step) -> int:
        name = step.get("task", FIRST)
        if not isinstance(name, int):
            return self.tasks[name].pid
        return NO_SUCH_PID if name < 0 else name

    def _range(self, step: Step) -> tuple[int, int]:
        return self.layout.address(step["place"]), step["pages"] * PAGE + step.get("bytes", 0)

    async def _vmstat(self) -> tuple[int, int] | None:
        if not hasattr(self.machine, "vmstat"):
            return None
        counts = await self.machine.vmstat()
        return int(counts["pgmigrate_success"]), int(counts["pgmigrate_fail"])

    # ---- tasks -----------------------------------------------------------------------------

    async def spawn(self, step: Step) -> Answer:
        uid = step.get("uid", 0)
        task = await self.machine.spawn(step.get("cpu", 0), uid, leased=False)
        self.tasks[step["task"]] = task
        return {"value": 0}

    async def fork(self, step: Step) -> Answer:
        child = await self._by(step).fork(step.get("cpu", 0))
        self.tasks[step["task"]] = child
        return {"value": 0}

    async def clone(self, step: Step) -> Answer:
        clone = self._method("clone", self._by(step))
        self.tasks[step["task"]] = await clone(cpu=step.get("cpu", 0))
        return {"value": 0}

    async def exit(self, step: Step) -> Answer:
        await self.tasks.pop(step.get("by", FIRST)).exit()
        return {"value": 0}

    async def run_on(self, step: Step) -> Answer:
        await self._by(step).sched_setaffinity(step["cpu"])
        return {"value": 0}

    async def setresuid(self, step: Step) -> Answer:
        await self._method("setresuid", self._by(step))(*step["uids"])
        return {"value": 0}

    # ---- memory ----------------------------------------------------------------------------

    async def mmap(self, step: Step) -> Answer:
        area = step["area"]
        flags = MAP_FIXED | (MAP_SHARED if step.get("shared") else MAP_PRIVATE)
        if step.get("locked"):
            self._method("mlock", self._by(step))
            flags |= MAP_LOCKED
        name = step.get("file")
        flags |= MAP_ANONYMOUS if name is None else 0
        path = "" if name is None else f"/{name}"
        address, offset = self.layout.address([area, 0]), step.get("offset", 0) * PAGE
        length = step["pages"] * PAGE
        got = await self._by(step).mmap(length, prot(step), flags, address, path, offset)
        assert got == address, f"{area} is at {got:#x} and not at {address:#x}"
        if area not in self._areas:
            self._areas.append(area)
        return {"value": 0}

    async def file(self, step: Step) -> Answer:
        await self.machine.call(CreateFile(f"/{step['name']}", step["pages"], "shmem", 0.0))
        self._files.append(f"/{step['name']}")
        return {"value": 0}

    async def munmap(self, step: Step) -> Answer:
        await self._by(step).munmap(*self._range(step))
        return {"value": 0}

    async def mprotect(self, step: Step) -> Answer:
        await self._by(step).mprotect(*self._range(step), prot(step))
        return {"value": 0}

    async def mlock(self, step: Step) -> Answer:
        await self._method("mlock", self._by(step))(*self._range(step))
        return {"value": 0}

    async def munlock(self, step: Step) -> Answer:
        await self._method("munlock", self._by(step))(*self._range(step))
        return {"value": 0}

    async def madvise(self, step: Step) -> Answer:
        await self._method("madvise", self._by(step))(*self._range(step), step["advice"])
        return {"value": 0}

    def _pages(self, step: Step) -> Any:
        start = self.layout.address(step["place"])
        return start + PAGE * np.arange(step["pages"], dtype=np.uint64)

    async def write(self, step: Step) -> Answer:
        """Page by page, so that those before one that cannot be written are."""
        words = np.arange(step["value"], step["value"] + step["pages"], dtype="<u8")
        for address, word in zip(self._pages(step).tolist(), words, strict=True):
            await self._translate(self._by(step), address, FaultAccess.WRITE)
            await self._by(step).store(address, word.tobytes())
        return {"value": 0}

    async def read(self, step: Step) -> Answer:
        task = self._by(step)
        data = []
        for address in self._pages(step).tolist():
            await self._translate(task, address, FaultAccess.READ)
            data.append(await task.load(address, 8))
        return {"value": 0, "words": [int.from_bytes(word, "little") for word in data]}

    async def _translate(self, task: Task, address: int, access: FaultAccess) -> None:
        """Of a word in two pages: a cpu has both before it stores any of it, the lower one first.

        What this machine stores in several pages it stores page by page.
        """
        pages = range(address // PAGE, (address + 7) // PAGE + 1)
        for page in pages if len(pages) > 1 else ():
            asked = Fault(task.pid, task.cpu, access, np.array([page], np.uint64))
            status = int((await self.machine.expect(asked, Translations)).status[0])
            if status < 0:
                raise OSError(-status, f"page {page:#x} of a word in two pages")

    # ---- policies --------------------------------------------------------------------------

    async def set_mempolicy(self, step: Step) -> Answer:
        mask, mode = raw_mask(step, "nodes"), step["mode"] & 0xFFFF_FFFF
        return result(await self._by(step).raw.set_mempolicy(mode, _bytes(mask), mask.maxnode))

    async def mbind(self, step: Step) -> Answer:
        mask, range_ = raw_mask(step, "nodes"), self._range(step)
        data, flags = _bytes(mask), step.get("flags", 0)
        mbind = self._by(step).raw.mbind
        return result(await mbind(*range_, step["mode"], data, mask.maxnode, flags))

    async def home_node(self, step: Step) -> Answer:
        node, flags = step["node"], step.get("flags", 0)
        message = SetMempolicyHomeNode(self._by(step).pid, *self._range(step), node, flags)
        return {"value": await self.machine.call(message)}

    async def get_mempolicy(self, step: Step) -> Answer:
        maxnode, flags = step.get("maxnode", 0), step.get("flags", 0)
        address = self.layout.address(step["place"]) if step.get("place") else 0
        address = step.get("address", address)
        room = 2 * PAGE if maxnode else None
        raw = self._by(step).raw
        value, mode, nodes = await raw.get_mempolicy(room, maxnode, address, flags)
        answer = result(value)
        if value >= 0:
            answer["mode"] = mode
            if maxnode:
                answer["nodes"] = nodes_of(nodes or b"")
        return answer

    # ---- migration -------------------------------------------------------------------------

    async def migrate_pages(self, step: Step) -> Answer:
        old, new = raw_mask(step, "old"), raw_mask(step, "new")
        maxnode, raw = max(old.maxnode, new.maxnode), self._by(step).raw
        return result(await raw.migrate_pages(self._pid(step), maxnode, _bytes(old), _bytes(new)))

    async def move_pages(self, step: Step) -> Answer:
        """What cannot be read or written is an array of no elements."""
        bad, places = step.get("bad"), step["places"]
        addresses = [self.layout.address(place) for place in places]
        nodes = step.get("nodes")
        status = [PREFILL] * len(places)
        value, told = await self._by(step).raw.move_pages(
            self._pid(step),
            len(places),
            [] if bad == "pages" else addresses,
            [] if bad == "nodes" else nodes,
            [] if bad == "status" else status,
            step.get("flags", 2),
        )
        told = status if bad == "status" else told
        names = ["untouched" if one == PREFILL else status_name(one) for one in told]
        return {**result(value), "status": names}

    # ---- cpusets ---------------------------------------------------------------------------

    async def cpuset(self, step: Step) -> Answer:
        path, file = f"/{step['path']}", step.get("file", "")
        match step["do"]:
            case "mkdir":
                await self.machine.cpusets.mkdir(path)
                self._cpusets.append(path)
            case "rmdir":
                await self.machine.cpusets.rmdir(path)
            case "read":
                return {"value": 0, "text": (await self.machine.cpusets.read(path, file)).strip()}
            case _:
                text = str(self._pid(step)) if "task" in step else step["text"]
                await self.machine.cpusets.write(path, file, text)
        return {"value": 0}

    # ---- looking ---------------------------------------------------------------------------

    async def _look(self, task: Task) -> dict[str, Any]:
        nodes: dict[str, list[int | str]] = {}
        words: dict[str, list[int | None]] = {}
        for name, start, pages in self.layout.areas():
            if name in self._areas:
                places = start + PAGE * np.arange(pages, dtype=np.uint64)
                status = await task.move_pages(0, places, None, 0)
                nodes[name] = [status_name(one) for one in status]
                words[name] = await self._words(task, places, status)
        return {"nodes": nodes, "words": words, "maps": await self._numa_maps(task)}

    async def _words(self, task: Task, places: Any, status: list[int]) -> list[int | None]:
        """The first word of each page that is present: to read another one would map it."""
        words: list[int | None] = [None] * len(status)
        present = [page for page, node in enumerate(status) if node >= 0]
        try:
            data = await task.load_many(places[present], 8)
        except OSError:
            for page in present:
                with contextlib.suppress(OSError):
                    words[page] = int.from_bytes(await task.load(int(places[page]), 8), "little")
            return words
        for page, word in zip(present, np.frombuffer(data, "<u8").tolist(), strict=True):
            words[page] = word
        return words

    async def _numa_maps(self, task: Task) -> list[str]:
        lines = []
        for line in (await self.machine.numa_maps(task.pid)).splitlines():
            start, _, rest = line.partition(" ")
            lines.append(f"{self.layout.name(int(start, 16))} {rest}")
        return lines


def _bytes(mask: RawMask) -> bytes | None:
    """What can be read at the pointer; None for NULL."""
    return b"" if mask.bad else mask.data
