"""What a reader has to know of the host before the figures mean anything."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from numalab.bench.raw import zmq_version


def machine_facts() -> dict[str, Any]:
    """As a JSON object; ``load`` is that of the last minute before the run."""
    return {
        "cpu": _after_colon("/proc/cpuinfo", "model name") or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libzmq": zmq_version(),
        "numpy": np.__version__,
        "memory_mib": int((_after_colon("/proc/meminfo", "MemTotal") or "0").split()[0]) >> 10,
        "load": round(os.getloadavg()[0], 2),
    }


def describe_facts(facts: dict[str, Any]) -> str:
    """In one line."""
    return (
        f"{facts['cpu']}, {facts['cpus']} cpus, {facts['memory_mib']:,} MiB,"
        f" Linux {facts['kernel']}, Python {facts['python']}, libzmq {facts['libzmq']},"
        f" load {facts['load']} before the run"
    )


def _after_colon(path: str, name: str) -> str:
    lines = Path(path).read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
