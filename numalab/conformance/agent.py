"""Process 1 of the guest: scenarios come in as JSON lines on a virtio port, answers go out.

Standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from typing import Any

from numalab.conformance.doer import Doer, Gone, Hangs, Pipes
from numalab.conformance.guest_run import CPUSETS, FILES, Run
from numalab.conformance.scenario import RawMask

PORT = "/dev/vport0p1"
MODULES = "/modules"
#: A scenario may take so long.
SECONDS = 90


def mount(doer: Doer, kind: str, where: str) -> None:
    os.makedirs(where, exist_ok=True)
    kind_at, where_at = doer.text(0, kind), doer.text(1, where)
    done = doer.call("mount", kind_at, where_at, kind_at, 0, 0)
    assert done == 0, f"mount {kind}: {done}"


def prepare(doer: Doer) -> None:
    """The file systems and the driver of the port."""
    os.chmod("/", 0o755)
    mount(doer, "devtmpfs", "/dev")
    mount(doer, "proc", "/proc")
    mount(doer, "sysfs", "/sys")
    mount(doer, "tmpfs", FILES)
    mount(doer, "cpuset", CPUSETS)
    for name in sorted(os.listdir(MODULES)):
        fd = doer.call("openat", -100, doer.text(0, f"{MODULES}/{name}"), 0, 0)
        empty = doer.text(1, "")
        done = doer.call("finit_module", fd, empty, 0)
        assert done in (0, -17), f"{name}: {done}"
        doer.call("close", fd)
    # A read fault maps the page that was read, and none around it.
    mount(doer, "debugfs", "/debug")
    with open("/debug/fault_around_bytes", "w") as file:
        file.write("4096")


def settle(doer: Doer) -> None:
    """Let the pages that wait in each cpu's batch onto their LRU lists.

    migrate_pages(2) does that first of all (K 1.13); from node 3 to node 3 it does nothing more.
    """
    mask = RawMask(65, (8).to_bytes(8, "little"))
    done = doer.call("migrate_pages", 0, mask.maxnode, doer.mask(0, mask), doer.mask(1, mask))
    assert done == 0, done


def run(scenario: dict[str, Any], helper: Doer) -> dict[str, Any]:
    """Its answers; one that hangs or fails says so in the place of the step."""
    answers: list[dict[str, Any]] = []
    started = time.monotonic()
    run = Run(scenario["steps"], lambda: settle(helper))
    signal.alarm(SECONDS)
    try:
        for step in scenario["steps"]:
            answers.append(run.step(step))
    except Hangs:
        answers.append({"hangs": True})
    except Gone:
        answers.append({"gone": True})
    except Exception:
        answers.append({"broken": traceback.format_exc()})
    finally:
        signal.alarm(0)
        run.close()
    took = time.monotonic() - started
    return {"name": scenario["name"], "answers": answers, "seconds": round(took, 3)}


def opened_port() -> Any:
    """The port, which is there a moment after its driver."""
    for _ in range(200):
        try:
            return open(PORT, "r+b", buffering=0)
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"{PORT} does not come")


def too_long(signal_number: int, frame: object) -> None:
    raise Hangs


def main() -> None:
    signal.signal(signal.SIGALRM, too_long)
    helper = Doer.start(Pipes(), 0)
    helper.scratch()
    prepare(helper)
    with opened_port() as port:
        with open("/proc/version") as file:
            version = file.read().strip()
        say(port, {"ready": version, "booted": time.clock_gettime(time.CLOCK_BOOTTIME)})
        pending = b""
        while True:
            while b"\n" not in pending:
                part = os.read(port.fileno(), 1 << 16)
                if not part:
                    time.sleep(0.05)
                pending += part
            line, _, pending = pending.partition(b"\n")
            say(port, run(json.loads(line), helper))


def say(port: Any, document: dict[str, Any]) -> None:
    data = json.dumps(document).encode() + b"\n"
    while data:
        data = data[os.write(port.fileno(), data) :]


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        time.sleep(0.5)
        raise
