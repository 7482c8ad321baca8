"""What the attribute files of a cpuset say, and what a text that is written to one means.

Lists are those of bitmap_parselist() (K 6.8), at the seed without blanks; flags are 0 or 1.
"""

from __future__ import annotations

import re

from coordinator.cpuset import TOP, Cpuset, CpusetFlag, children_of, tasks_of
from coordinator.memory import Memory
from protocol.nodemask import format_nodes
from protocol.profile import Profile

EIO, EINVAL, ERANGE, EOVERFLOW = 5, 22, 34, 75
#: Cpus and nodes have numbers below this.
LIST_LIMIT = 1024
#: Longer texts are refused before they are read.
TEXT_LIMIT = 100 + 6 * LIST_LIMIT
FLAGS = {
    "cpu_exclusive": CpusetFlag.CPU_EXCLUSIVE,
    "mem_exclusive": CpusetFlag.MEM_EXCLUSIVE,
    "memory_migrate": CpusetFlag.MEMORY_MIGRATE,
}
FILES = ("cpu_exclusive", "cpus", "mem_exclusive", "memory_migrate", "mems", "tasks")
#: What a cgroup v1 file system puts before the names of all but ``tasks``.
PREFIX = "cpuset."

# Of more digits than these Python makes no number.
_DIGITS = 4000
_ITEM = re.compile(r"([0-9]+)(?:-([0-9]+)(?::([0-9]+)/([0-9]+))?)?")
_UNSIGNED = re.compile(r"\+?(?:0[xX]([0-9a-fA-F]{1,4000})|0([0-7]{0,4000})|([1-9][0-9]{0,3999}))")
_SCANNED = re.compile(r"\s*([+-]?[0-9]{1,4000})")


def attribute(name: str) -> str | None:
    """The file that is called so, with the prefix of a cgroup or without; None: there is none."""
    bare = name.removeprefix(PREFIX)
    return bare if bare in FILES and not (name != bare == "tasks") else None


def parse_mask(text: str, profile: Profile) -> frozenset[int] | int:
    """The numbers of a list, or -EINVAL (not a list, or blank), -ERANGE (a number is too large),
    -EOVERFLOW (it has more than 32 bits, where the profile looks).

    A blank list is the empty set where the profile takes it.
    """
    text = text.partition("\0")[0]
    if profile.cpuset_blank_list_is_empty and not text.strip():
        return frozenset()
    if profile.cpuset_lists_have_groups:
        items = re.split(r"[\s,]+", text.strip())
        items = [item for item in items if item]
    else:
        # One comma may end the list, and the first end of line does.
        items = text.partition("\n")[0].removesuffix(",").split(",")
    numbers: set[int] = set()
    for item in items:
        match = _ITEM.fullmatch(item)
        if match is None or (match[3] and not profile.cpuset_lists_have_groups):
            return -EINVAL
        first, last, used, group = (
            _number(digits) for digits in match.group(1, 2 if match[2] else 1, 3, 4)
        )
        if profile.cpuset_lists_have_groups and max(first, last, used, group) >= 1 << 32:
            return -EOVERFLOW
        if last < first or not 0 < used <= group:
            return -EINVAL
        if last >= LIST_LIMIT:
            return -ERANGE
        numbers.update(at for at in range(first, last + 1) if (at - first) % group < used)
    return frozenset(numbers)


def _number(digits: str | None) -> int:
    if digits is None:
        return 1
    return int(digits) if len(digits) <= _DIGITS else 1 << 64


def parse_flag(text: str, profile: Profile) -> bool | int:
    """True or False, or -EINVAL, -ERANGE; any text is a flag where the profile takes it."""
    if profile.cpuset_numbers_are_scanned:
        digits = re.match(r"[0-9]*", text)
        return bool(digits and digits[0].strip("0"))
    value = _unsigned(text.strip())
    if value is None:
        return -EINVAL
    return -ERANGE if value >= 1 << 64 else value != 0


def parse_pid(text: str, profile: Profile) -> tuple[int, int]:
    """(0, pid), where 0 is the writer itself; (-EIO or -EINVAL, 0): the text is not a pid."""
    if profile.cpuset_numbers_are_scanned:
        scanned = _SCANNED.match(text)
        return (-EIO, 0) if scanned is None else (0, int(scanned[1]))
    value = _unsigned(text.strip())
    return (-EINVAL, 0) if value is None or value >= 1 << 31 else (0, value)


def _unsigned(text: str) -> int | None:
    """kstrtoull() with base 0."""
    match = _UNSIGNED.fullmatch(text)
    if match is None:
        return None
    if match[1]:
        return int(match[1], 16)
    return int(match[2] or "0", 8) if match[3] is None else int(match[3])


def read(memory: Memory, cpuset: Cpuset, name: str) -> str:
    """The text of an attribute file; of ``""`` the names in the directory, folders with a slash."""
    if not name:
        top = "" if cpuset.path == TOP else cpuset.path
        folders = (child.path[len(top) + 1 :] for child in children_of(memory, cpuset.path))
        return "".join(f"{entry}\n" for entry in (*FILES, *(f"{folder}/" for folder in folders)))
    if name == "tasks":
        return "".join(f"{task.pid}\n" for task in tasks_of(memory, cpuset.path))
    if name in FLAGS:
        return f"{int(bool(cpuset.flags & FLAGS[name]))}\n"
    return f"{format_nodes(tuple(cpuset.cpus if name == 'cpus' else cpuset.mems))}\n"
