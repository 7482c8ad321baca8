"""A four-node Linux 6.1 in QEMU's software emulation, and the agent in it.

Everything that does not change is built once, in a cache directory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from numalab.conformance.scenario import DISTANCES, NODES
from numalab.parent import die_with_parent
from protocol.core import ConfigurationError

QEMU = "qemu-system-x86_64"
KERNEL = "linux-image-cloud-amd64"
HERE = Path(__file__).parent
MODULES = (
    "virtio/virtio_ring.ko",
    "virtio/virtio.ko",
    "virtio/virtio_pci_legacy_dev.ko",
    "virtio/virtio_pci_modern_dev.ko",
    "virtio/virtio_pci.ko",
    "char/virtio_console.ko",
)
IN_GUEST = ("scenario.py", "doer.py", "guest_run.py", "agent.py")
MEMORY = 256
COMPILE = (
    "gcc -O1 -static -nostdlib -ffreestanding -fno-stack-protector -fno-pie -no-pie"
    " -fcf-protection=none -fno-asynchronous-unwind-tables -Wl,-z,noseparate-code"
    " -Wl,--build-id=none"
).split()
COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 numa_balancing=disable transparent_hugepage=never"
    " mitigations=off tsc=reliable nowatchdog random.trust_cpu=on nokaslr rdinit=/bin/python3"
    " PYTHONHOME=/ PYTHONPATH=/ PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1 LD_LIBRARY_PATH=/lib"
    " -- -S -u -m numalab.conformance.agent"
)


def cache() -> Path:
    """Where the kernel and the file system of the guest are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(home) / "numalab"
    path.mkdir(parents=True, exist_ok=True)
    return path


def need(program: str, package: str) -> None:
    if shutil.which(program) is None:
        raise ConfigurationError(
            f"The real kernel needs '{program}', which is not here: apt-get install {package}."
        )


# ---- the kernel ----------------------------------------------------------------------------


def kernel() -> tuple[Path, Path]:
    """The kernel's image and its modules; fetched with apt-get the first time."""
    root = cache() / "kernel"
    if not (root / "complete").exists():
        fetch_kernel(root)
    image = next((root / "boot").glob("vmlinuz-*"))
    modules = next((root / "lib" / "modules").iterdir())
    return image, modules


def fetch_kernel(root: Path) -> None:
    need("apt-get", "apt")
    need("dpkg-deb", "dpkg")
    shutil.rmtree(root, ignore_errors=True)
    package = cache() / "package"
    package.mkdir(exist_ok=True)
    said = subprocess.run(["apt-cache", "depends", KERNEL], capture_output=True, text=True)
    names = [
        line.split()[-1] for line in said.stdout.splitlines() if "Depends: linux-image" in line
    ]
    fetched = (
        bool(names)
        and not subprocess.run(
            ["apt-get", "download", "-qq", names[0]], cwd=package, capture_output=True
        ).returncode
    )
    if not fetched:
        raise ConfigurationError(
            f"The kernel that {KERNEL} depends on could not be fetched with 'apt-get download': "
            "a Debian 12 with a network is needed the first time ('apt-get update' helps)."
        )
    deb = next(package.glob(f"{names[0]}_*.deb"))
    subprocess.run(["dpkg-deb", "-x", deb, root], check=True)
    (root / "complete").touch()


# ---- its file system -----------------------------------------------------------------------


def initramfs() -> Path:
    """The archive that the kernel unpacks, made anew when one of its parts has changed."""
    _, modules = kernel()
    digest = hashlib.sha256(str(modules).encode() + sys.version.encode())
    for name in ("doer.c", "guest.py", *IN_GUEST):
        digest.update((HERE / name).read_bytes())
    path = cache() / f"initramfs-{digest.hexdigest()[:16]}.cpio"
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}")
        with partial.open("wb") as file:
            write_archive(file, contents(modules))
        partial.rename(path)
    return path


def contents(modules: Path) -> Iterator[tuple[str, bytes | None, int]]:
    """Path, data (None for a directory) and mode of everything in it."""
    files: dict[str, Path] = {}
    python = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
    files["bin/python3"] = python
    needed = python_files(python)
    for name, path in needed.items():
        files[name] = path
    for path in libraries([python, *(path for path in needed.values() if path.suffix == ".so")]):
        files[f"lib/{path.name}"] = path
    files["lib64/ld-linux-x86-64.so.2"] = Path("/lib64/ld-linux-x86-64.so.2")
    for order, name in enumerate(MODULES):
        files[f"modules/{order}-{Path(name).name}"] = modules / "kernel" / "drivers" / name
    for name in IN_GUEST:
        files[f"numalab/conformance/{name}"] = HERE / name
    folders = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    for folder in sorted(folders | {"dev", "proc", "sys", "files", "cpusets"}):
        yield folder, None, 0o40755
    for package in ("numalab", "numalab/conformance"):
        yield f"{package}/__init__.py", b"", 0o100644
    for name, path in files.items():
        yield name, path.read_bytes(), 0o100755
    yield "doer", compiled(), 0o100755


def python_files(python: Path) -> dict[str, Path]:
    """What the interpreter loads for the agent, by its path in the guest."""
    code = (
        "import __future__, json, os, select, struct, fcntl, time, traceback, contextlib,"
        " errno, runpy, dataclasses, typing, collections.abc, linecache, signal, sys;"
        "print('\\n'.join(m.__file__ for m in list(sys.modules.values())"
        " if getattr(m, '__file__', None)))"
    )
    said = subprocess.run([python, "-I", "-S", "-c", code], capture_output=True, text=True)
    version = f"python3.{sys.version_info.minor}"
    found = {}
    for line in said.stdout.splitlines():
        path = Path(line)
        tail = line.split(f"/{version}/", 1)[-1]
        found[f"lib/{version}/{tail}"] = path
    found.setdefault(f"lib/{version}/os.py", Path(os.__file__))
    return found


def libraries(programs: list[Path]) -> set[Path]:
    """The shared libraries that ldd names."""
    found = set()
    for program in programs:
        said = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
        for line in said.splitlines():
            _, arrow, rest = line.partition("=> ")
            if arrow and rest.startswith("/"):
                found.add(Path(rest.split(" (")[0]))
    return found


def compiled() -> bytes:
    """The doer."""
    need("gcc", "gcc")
    program = cache() / f"doer.{os.getpid()}"
    subprocess.run([*COMPILE, "-o", program, HERE / "doer.c"], check=True)
    data = program.read_bytes()
    program.unlink()
    return data


def write_archive(file: IO[bytes], entries: Iterator[tuple[str, bytes | None, int]]) -> None:
    """A cpio archive in the form 'newc'."""
    for inode, (name, data, mode) in enumerate([*entries, ("TRAILER!!!", b"", 0)], start=1):
        size = 0 if data is None else len(data)
        numbers = (inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name) + 1, 0)
        file.write(b"070701" + b"".join(b"%08X" % number for number in numbers))
        for part in (name.encode() + b"\0", data or b""):
            file.write(part)
            file.write(b"\0" * (-file.tell() % 4))


# ---- the machine ---------------------------------------------------------------------------


class Guest:
    """A guest that boots, or has booted; ``version``: what its kernel then says of itself."""

    def __init__(self, process: subprocess.Popen[bytes], console: Path) -> None:
        self._process, self._console = process, console
        self.version = ""

    def wait(self) -> None:
        """Until it has booted."""
        self.version = str(self._hear()["ready"])

    def run(self, scenario: dict[str, Any]) -> dict[str, Any]:
        """The answers to a scenario."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(scenario).encode() + b"\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            said = self._console.read_text(errors="replace").splitlines()
            last = [line for line in said if line.strip() and not line.startswith("[ ")][-12:]
            raise ConfigurationError("\n".join(["The guest has ended; it said last:", *last]))
        return cast(dict[str, Any], json.loads(line))


def arguments(console: Path) -> list[str]:
    image, _ = kernel()
    words = [QEMU, "-accel", "tcg,thread=multi", "-m", f"{MEMORY * NODES}M", "-smp", str(NODES)]
    words += ["-display", "none", "-monitor", "none", "-no-reboot", "-nodefaults"]
    words += ["-serial", f"file:{console}", "-kernel", str(image), "-initrd", str(initramfs())]
    words += ["-device", "virtio-serial-pci", "-chardev", "stdio,id=agent,signal=off"]
    words += ["-device", "virtserialport,chardev=agent,name=agent", "-append", COMMAND_LINE]
    for nid in range(NODES):
        words += ["-object", f"memory-backend-ram,id=m{nid},size={MEMORY}M"]
        words += ["-numa", f"node,nodeid={nid},cpus={nid},memdev=m{nid}"]
    for a in range(NODES):
        for b in range(a + 1, NODES):
            words += ["-numa", f"dist,src={a},dst={b},val={DISTANCES[a][b]}"]
    return words


@contextmanager
def started() -> Iterator[Guest]:
    """A guest that boots, and is gone afterwards.  Raises ConfigurationError: what is missing.

    To be called by a thread that lasts: the guest does not outlive it.
    """
    need(QEMU, "qemu-system-x86")
    console = cache() / f"console.{os.getpid()}.{os.urandom(3).hex()}"
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        arguments(console), stdin=pipe, stdout=pipe, preexec_fn=die_with_parent
    )
    try:
        yield Guest(process, console)
    finally:
        process.kill()
        process.wait()
        console.unlink(missing_ok=True)
