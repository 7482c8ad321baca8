"""One scenario on the real kernel, in the guest.  Standard library only."""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
from collections.abc import Callable
from typing import Any

from numalab.conformance.doer import ARRAYS, Doer, Pipes
from numalab.conformance.scenario import (
    FIRST,
    PAGE,
    PREFILL,
    UNREADABLE,
    Layout,
    Step,
    nodes_of,
    prot,
    raw_mask,
    result,
    status_name,
)

Answer = dict[str, Any]

FILES = "/files"
CPUSETS = "/cpusets"
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_LOCKED = 1, 2, 0x10, 0x20, 0x2000
O_RDWR, AT_FDCWD = 2, -100
#: After these pages may wait in batches of a cpu, for an LRU list or to become active.
NOTED = frozenset("write read mmap munmap mlock munlock madvise get_mempolicy exit".split())


class Run:
    """The tasks of a scenario and what they are asked to do."""

    def __init__(self, steps: list[Step], settle: Callable[[], None]) -> None:
        self.layout = Layout(steps)
        self.tasks: dict[str, Doer] = {}
        self.areas: list[str] = []
        self.files: set[str] = set()
        self.cpusets: list[str] = []
        self._settle = settle
        self._pipes = Pipes()
        self._own: dict[int, list[tuple[int, int]]] = {}
        self._counts = (0, 0)
        self.spawn({"task": FIRST, "cpu": 0, "uid": 0})

    def close(self) -> None:
        """End every process, then take away what they used."""
        for doer in self.tasks.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(doer.pid, 9)
        for doer in self.tasks.values():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(doer.pid, 0)
        self._pipes.close()
        for path in reversed(self.cpusets):
            with contextlib.suppress(OSError):
                os.rmdir(f"{CPUSETS}/{path}")
        for name in sorted(self.files):
            os.unlink(f"{FILES}/{name}")

    # ---- a step ----------------------------------------------------------------------------

    def step(self, step: Step) -> Answer:
        """Carry it out: its answer, and what can be seen afterwards."""
        own = self._own_pages() if step["op"] in ("migrate_pages", "cpuset") else []
        before = vmstat()
        answer = getattr(self, step["op"])(step)
        if step["op"] in NOTED:
            self._settle()
        after = vmstat()
        moved = after[0] - before[0] - self._own_moved(own)
        seen = {name: self._look(doer) for name, doer in self.tasks.items() if doer.alive}
        return {**answer, "moved": moved, "failed": after[1] - before[1], "seen": seen}

    def _by(self, step: Step) -> Doer:
        return self.tasks[step.get("by", FIRST)]

    def _place(self, step: Step) -> int:
        return self.layout.address(step["place"])

    def _range(self, step: Step) -> tuple[int, int]:
        """Address, and length in bytes."""
        return self._place(step), step["pages"] * PAGE + step.get("bytes", 0)

    def _pid(self, step: Step) -> int:
        """The pid that a call names: of a task, 0 for itself, or one that nobody has."""
        name = step.get("task", FIRST)
        return name if isinstance(name, int) else self.tasks[name].tid

    # ---- tasks -----------------------------------------------------------------------------

    def spawn(self, step: Step) -> Answer:
        doer = Doer.start(self._pipes, len(self.tasks))
        doer.scratch()
        self._on(doer, step.get("cpu", 0))
        uid = step.get("uid", 0)
        if uid:
            doer.call("setresuid", uid, uid, uid)
            program = doer.text(0, "/doer")
            name = doer.text(1, str(doer.number))
            doer.poke(ARRAYS, struct.pack("<2Q", name, 0))
            # It is the new program that answers next, and it has no memory for arguments yet.
            doer.tell(0, 59, program, ARRAYS, 0)
            doer.scratch()
        self.tasks[step["task"]] = doer
        return {"value": 0}

    def fork(self, step: Step) -> Answer:
        doer = self._by(step).fork(len(self.tasks))
        self._by(step).unshare()
        doer.unshare()
        self._on(doer, step.get("cpu", 0))
        self.tasks[step["task"]] = doer
        return {"value": 0}

    def clone(self, step: Step) -> Answer:
        doer = self._by(step).clone(len(self.tasks))
        self._on(doer, step.get("cpu", 0))
        self.tasks[step["task"]] = doer
        return {"value": 0}

    def exit(self, step: Step) -> Answer:
        doer = self._by(step)
        others = [o for o in self.tasks.values() if o.pid == doer.pid and o.alive and o is not doer]
        doer.alive = False
        if others:
            doer.tell(0, 60, 0)
            while not ended(doer):
                os.sched_yield()
        else:
            doer.tell(0, 231, 0)
            os.waitpid(doer.pid, 0)
        return {"value": 0}

    def run_on(self, step: Step) -> Answer:
        return result(self._on(self._by(step), step["cpu"]))

    def _on(self, doer: Doer, cpu: int) -> int:
        """Put it on a cpu; its cpuset may not have it."""
        doer.cpu = cpu
        try:
            os.sched_setaffinity(doer.tid, {cpu})
        except OSError as error:
            return -(error.errno or 0)
        return 0

    def _pin_again(self) -> None:
        """A cpuset that a task comes into gives it all of its cpus: keep it where it was."""
        for doer in self.tasks.values():
            if doer.alive:
                allowed = os.sched_getaffinity(doer.tid)
                self._on(doer, doer.cpu if doer.cpu in allowed else min(allowed))

    def setresuid(self, step: Step) -> Answer:
        return result(self._by(step).call("setresuid", *step["uids"]))

    # ---- memory ----------------------------------------------------------------------------

    def mmap(self, step: Step) -> Answer:
        doer, area = self._by(step), step["area"]
        address = self.layout.address([area, 0])
        flags = MAP_FIXED | (MAP_SHARED if step.get("shared") else MAP_PRIVATE)
        flags |= MAP_LOCKED if step.get("locked") else 0
        name, fd = step.get("file"), -1
        if name is None:
            flags |= MAP_ANONYMOUS
        else:
            fd = doer.call("openat", AT_FDCWD, doer.text(0, f"{FILES}/{name}"), O_RDWR, 0)
        offset = step.get("offset", 0) * PAGE
        got = doer.call("mmap", address, step["pages"] * PAGE, prot(step), flags, fd, offset)
        if fd >= 0:
            doer.call("close", fd)
        if got == address and area not in self.areas:
            self.areas.append(area)
        return result(0 if got == address else got)

    def file(self, step: Step) -> Answer:
        self.files.add(step["name"])
        with open(f"{FILES}/{step['name']}", "wb") as file:
            file.truncate(step["pages"] * PAGE)
        os.chmod(f"{FILES}/{step['name']}", 0o666)
        return {"value": 0}

    def munmap(self, step: Step) -> Answer:
        return result(self._by(step).call("munmap", *self._range(step)))

    def mprotect(self, step: Step) -> Answer:
        return result(self._by(step).call("mprotect", *self._range(step), prot(step)))

    def mlock(self, step: Step) -> Answer:
        return result(self._by(step).call("mlock", *self._range(step)))

    def munlock(self, step: Step) -> Answer:
        return result(self._by(step).call("munlock", *self._range(step)))

    def madvise(self, step: Step) -> Answer:
        return result(self._by(step).call("madvise", *self._range(step), step["advice"]))

    def write(self, step: Step) -> Answer:
        done = self._by(step).write(self._place(step), step["pages"], step["value"])
        return result(done)

    def read(self, step: Step) -> Answer:
        done, values = self._by(step).read(self._place(step), step["pages"])
        return result(done) if done else {"value": 0, "words": values}

    # ---- policies --------------------------------------------------------------------------

    def set_mempolicy(self, step: Step) -> Answer:
        doer, mask = self._by(step), raw_mask(step, "nodes")
        return result(doer.call("set_mempolicy", step["mode"], doer.mask(0, mask), mask.maxnode))

    def mbind(self, step: Step) -> Answer:
        doer, mask = self._by(step), raw_mask(step, "nodes")
        where, flags = doer.mask(0, mask), step.get("flags", 0)
        range_ = self._range(step)
        return result(doer.call("mbind", *range_, step["mode"], where, mask.maxnode, flags))

    def home_node(self, step: Step) -> Answer:
        flags = step.get("flags", 0)
        return result(self._by(step).call("home_node", *self._range(step), step["node"], flags))

    def get_mempolicy(self, step: Step) -> Answer:
        """maxnode 0 or absent: no mask is asked for."""
        doer, maxnode = self._by(step), step.get("maxnode", 0)
        address = self._place(step) if step.get("place") else step.get("address", 0)
        size = min((max(maxnode - 1, 0) + 63) // 64 * 8, 2 * PAGE)
        mask = ARRAYS + 8 if maxnode else 0
        if maxnode:
            doer.poke(ARRAYS + 8, b"\0" * max(size, 8))
        flags = step.get("flags", 0)
        done = doer.call("get_mempolicy", ARRAYS, mask, maxnode, address, flags)
        if done < 0:
            return result(done)
        (mode,) = struct.unpack("<i", doer.peek(ARRAYS, 4))
        answer: Answer = {"value": 0, "mode": mode}
        if maxnode:
            answer["nodes"] = nodes_of(doer.peek(ARRAYS + 8, size))
        return answer

    # ---- migration -------------------------------------------------------------------------

    def migrate_pages(self, step: Step) -> Answer:
        doer = self._by(step)
        old, new = raw_mask(step, "old"), raw_mask(step, "new")
        maxnode = max(old.maxnode, new.maxnode)
        where = doer.mask(0, old), doer.mask(1, new)
        return result(doer.call("migrate_pages", self._pid(step), maxnode, *where))

    def move_pages(self, step: Step) -> Answer:
        """bad: "pages", "nodes" or "status", the array whose pointer is unreadable."""
        doer, places = self._by(step), step["places"]
        count, bad = len(places), step.get("bad")
        nodes = step.get("nodes")
        pages_at, nodes_at, status_at = ARRAYS, ARRAYS + 2 * PAGE, ARRAYS + 3 * PAGE
        if count:
            addresses = [self.layout.address(place) for place in places]
            doer.poke(pages_at, struct.pack(f"<{count}Q", *addresses))
            doer.poke(status_at, struct.pack(f"<{count}i", *[PREFILL] * count))
            if nodes is not None:
                doer.poke(nodes_at, struct.pack(f"<{count}i", *nodes))
        done = doer.call(
            "move_pages",
            self._pid(step),
            count,
            UNREADABLE if bad == "pages" else pages_at,
            UNREADABLE if bad == "nodes" else 0 if nodes is None else nodes_at,
            UNREADABLE if bad == "status" else status_at,
            step.get("flags", 2),
        )
        status = struct.unpack(f"<{count}i", doer.peek(status_at, 4 * count)) if count else ()
        told = ["untouched" if one == PREFILL else status_name(one) for one in status]
        return {**result(done), "status": told}

    # ---- cpusets ---------------------------------------------------------------------------

    def cpuset(self, step: Step) -> Answer:
        """do: mkdir, rmdir, write (file, text; task for a file of tasks) or read (file)."""
        path = f"{CPUSETS}/{step['path']}"
        try:
            match step["do"]:
                case "mkdir":
                    os.mkdir(path)
                    self.cpusets.append(step["path"])
                case "rmdir":
                    os.rmdir(path)
                case "read":
                    with open(f"{path}/{step['file']}") as file:
                        return {"value": 0, "text": file.read().strip()}
                case _:
                    text = str(self._pid(step)) if "task" in step else step["text"]
                    fd = os.open(f"{path}/{step['file']}", os.O_WRONLY)
                    try:
                        os.write(fd, (text + "\n").encode())
                    finally:
                        os.close(fd)
                    self._pin_again()
        except OSError as error:
            return result(-(error.errno or 0))
        return {"value": 0}

    # ---- looking ---------------------------------------------------------------------------

    def _look(self, doer: Doer) -> dict[str, Any]:
        """Where the pages of each area are, what is in them, and the lines of numa_maps."""
        areas = [area for area in self.layout.areas() if area[0] in self.areas]
        places = [start + n * PAGE for _, start, pages in areas for n in range(pages)]
        seen = iter(doer.look(places))
        nodes: dict[str, list[int | str]] = {}
        words: dict[str, list[int | None]] = {}
        for name, _, pages in areas:
            rows = list(itertools.islice(seen, pages))
            nodes[name] = [status_name(status) for status, _ in rows]
            words[name] = [word for _, word in rows]
        return {"nodes": nodes, "words": words, "maps": self._numa_maps(doer.tid)}

    def _numa_maps(self, pid: int) -> list[str]:
        lines = []
        with open(f"/proc/{pid}/numa_maps") as file:
            for line in file:
                start, _, rest = line.strip().partition(" ")
                address = int(start, 16)
                if self.layout.covers(address):
                    lines.append(f"{self.layout.name(address)} {rest}")
        return lines

    # ---- the pages of the doers themselves, which no other machine has ---------------------

    def _own_pages(self) -> list[tuple[int, dict[int, int]]]:
        threads = {doer.pid: doer.tid for doer in self.tasks.values() if doer.alive}
        return [(tid, self._frames(tid)) for tid in threads.values()]

    def _own_moved(self, before: list[tuple[int, dict[int, int]]]) -> int:
        """How many frames of them have been exchanged."""
        gone: set[int] = set()
        for pid, frames in before:
            now = self._frames(pid)
            gone |= {frame for page, frame in frames.items() if now.get(page, frame) != frame}
        return len(gone)

    def _frames(self, pid: int) -> dict[int, int]:
        if pid not in self._own:
            self._own[pid] = [span for span in spans(pid) if not self.layout.covers(span[0])]
        found = {}
        with open(f"/proc/{pid}/pagemap", "rb") as file:
            for start, end in self._own[pid]:
                count = (end - start) // PAGE
                entries = os.pread(file.fileno(), 8 * count, start // PAGE * 8)
                for n, (entry,) in enumerate(struct.iter_unpack("<Q", entries)):
                    if entry >> 63:
                        found[start // PAGE + n] = entry & (1 << 55) - 1
        return found


def ended(doer: Doer) -> bool:
    """Whether the thread has left its mm; the first one of a process stays as a zombie."""
    try:
        with open(f"/proc/{doer.pid}/task/{doer.tid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def spans(pid: int) -> list[tuple[int, int]]:
    """Start and end of each vma."""
    found = []
    with open(f"/proc/{pid}/maps") as file:
        for line in file:
            start, end = line.split(" ", 1)[0].split("-")
            if int(start, 16) < 1 << 47:
                found.append((int(start, 16), int(end, 16)))
    return found


def vmstat() -> tuple[int, int]:
    """pgmigrate_success, pgmigrate_fail."""
    with open("/proc/vmstat", "rb") as file:
        text = file.read()
    at = text.index(b"pgmigrate_success ")
    success, fail = text[at:].split(b"\n", 2)[:2]
    return int(success.split()[1]), int(fail.split()[1])
