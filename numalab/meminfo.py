"""meminfo and vmstat, of a node and of the whole machine, in both of their forms (K 6.5, 6.10).

Of what there is none, the lines that tools expect say 0; what only a silent node knows has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from numalab.hardware import COUNTERS
from protocol.messages import ZoneCount
from protocol.observe import LruCount, Vmstat
from protocol.syscalls import Hardware

_KIB = 1 << 10
#: Lines of the node's meminfo that this machine has nothing to say in.
_ZERO_AFTER_SHMEM = ("KernelStack", "PageTables", "SecPageTables", "NFS_Unstable", "Bounce")
_ZERO_AT_THE_END = (
    *("WritebackTmp", "KReclaimable", "Slab", "SReclaimable", "SUnreclaim"),
    *("AnonHugePages", "ShmemHugePages", "ShmemPmdMapped", "FileHugePages", "FilePmdMapped"),
)
_HUGE = ("HugePages_Total", "HugePages_Free", "HugePages_Surp")
#: numastat's counters, in its order, under the names of vmstat (K 6.10).
_NUMA = ("numa_hit", "numa_miss", "numa_foreign", "numa_interleave", "numa_local", "numa_other")
#: Columns of ``Vmstat``.
_KINDS = ("anon", "file", "shmem", "mapped", "dirty", "writeback", "mlocked")


@dataclass(frozen=True, slots=True)
class Counted:
    """What is counted of one node or of all.

    pages: by the names of the columns of ``Vmstat``, and ``frames`` and ``free``.  numa: the
    counters of numastat.  zone, lists: None where a node that knows them does not answer.
    """

    page_size: int
    split: bool
    counts_numa: bool
    numa: tuple[int, ...]
    pages: dict[str, int]
    zone: ZoneCount | None
    lists: LruCount | None

    @classmethod
    def of(
        cls,
        hardware: Hardware,
        vmstat: Vmstat,
        row: int,
        zone: ZoneCount | None,
        lists: LruCount | None,
    ) -> Counted:
        """The node in this row of both answers."""
        pages = {"frames": int(hardware.frames[row]), "free": int(hardware.free[row])}
        return cls(
            hardware.page_size,
            bool(vmstat.meminfo_splits_lru),
            bool(vmstat.vmstat_counts_numa),
            tuple(int(getattr(hardware, name)[row]) for name in COUNTERS),
            pages | {kind: int(getattr(vmstat, kind)[row]) for kind in _KINDS},
            zone,
            lists,
        )

    @classmethod
    def sum(cls, parts: Sequence[Counted]) -> Counted:
        """All nodes together; zone and lists only if every node has told them."""
        zones = [part.zone for part in parts if part.zone is not None]
        lists = [part.lists for part in parts if part.lists is not None]
        return cls(
            parts[0].page_size,
            parts[0].split,
            parts[0].counts_numa,
            tuple(sum(column) for column in zip(*(part.numa for part in parts), strict=True)),
            {name: sum(part.pages[name] for part in parts) for name in parts[0].pages},
            ZoneCount(*_columns(zones, ZoneCount)) if len(zones) == len(parts) else None,
            LruCount(*_columns(lists, LruCount)) if len(lists) == len(parts) else None,
        )


def _columns(rows: Sequence[object], cls: type[ZoneCount] | type[LruCount]) -> list[int]:
    return [sum(getattr(row, field.name) for row in rows) for field in fields(cls)]


# ---- meminfo -------------------------------------------------------------------------------


def node_meminfo(nid: int, counted: Counted) -> str:
    """nodeN/meminfo, which at the seed began with an empty line (K 6.5)."""
    size = counted.page_size
    if not counted.split:
        return "\n" + "".join(
            f"Node {nid} {name + ':':<13} {pages * size // _KIB:8} kB\n"
            for name, pages in _flat(counted, of_node=True).items()
        )
    lines = "".join(
        f"Node {nid} {name + ':':<15} {pages * size // _KIB:8} kB\n"
        for name, pages in _split(counted, of_node=True).items()
    )
    return lines + "".join(f"Node {nid} {name}: {0:5}\n" for name in _HUGE)


def meminfo(counted: Counted) -> str:
    """/proc/meminfo."""
    keys = _split if counted.split else _flat
    width = 15 if counted.split else 13
    return "".join(
        f"{name + ':':<{width}} {pages * counted.page_size // _KIB:8} kB\n"
        for name, pages in keys(counted, of_node=False).items()
    )


def _flat(counted: Counted, *, of_node: bool) -> dict[str, int]:
    """The keys at the seed; Mapped counted anonymous pages too."""
    zone, of = counted.zone, counted.pages
    pages = {"MemTotal": of["frames"], "MemFree": of["free"]}
    if of_node:
        pages |= {"MemUsed": of["frames"] - of["free"]}
    if zone is not None:
        pages |= {"Active": zone.active, "Inactive": zone.inactive}
    pages |= {
        "HighTotal": 0,
        "HighFree": 0,
        "LowTotal": of["frames"],
        "LowFree": of["free"],
    }
    pages |= {"Dirty": of["dirty"], "Writeback": of["writeback"]}
    return pages | {"Mapped": of["anon"] + of["mapped"], "Slab": 0}


def _split(counted: Counted, *, of_node: bool) -> dict[str, int]:
    """The keys of 6.1, without those that only some configurations have."""
    lists, of = counted.lists, counted.pages
    pages = {"MemTotal": of["frames"], "MemFree": of["free"]}
    if of_node:
        pages |= {"MemUsed": of["frames"] - of["free"]}
    else:
        # Nothing is kept back, and a clean page cache is all that could be dropped.
        pages |= {
            "MemAvailable": of["free"],
            "Buffers": 0,
            "Cached": of["file"],
        }
    pages |= {"SwapCached": 0}
    if lists is not None:
        pages |= {
            "Active": lists.active_anon + lists.active_file,
            "Inactive": lists.inactive_anon + lists.inactive_file,
            "Active(anon)": lists.active_anon,
            "Inactive(anon)": lists.inactive_anon,
            "Active(file)": lists.active_file,
            "Inactive(file)": lists.inactive_file,
        }
    pages |= {"Unevictable": 0, "Mlocked": of["mlocked"]}
    pages |= {} if of_node else {"SwapTotal": 0, "SwapFree": 0}
    pages |= {"Dirty": of["dirty"], "Writeback": of["writeback"]}
    pages |= {"FilePages": of["file"]} if of_node else {}
    pages |= {"Mapped": of["mapped"]} if of_node else {}
    pages |= {"AnonPages": of["anon"]}
    pages |= {} if of_node else {"Mapped": of["mapped"]}
    pages |= {"Shmem": of["shmem"]}
    return pages | dict.fromkeys((*_ZERO_AFTER_SHMEM, *_ZERO_AT_THE_END), 0)


# ---- vmstat --------------------------------------------------------------------------------


def node_vmstat(counted: Counted) -> str:
    """nodeN/vmstat, in pages; there was none at the seed (K 6.4)."""
    return _lines(_states(counted) | dict(zip(_NUMA, counted.numa, strict=True)))


def vmstat(counted: Counted, events: Mapping[str, int]) -> str:
    """/proc/vmstat, in pages; the seed has none of the NUMA and migration counters (K 6.10)."""
    of = counted.pages
    if counted.counts_numa:
        return _lines(_states(counted) | dict(events))
    pages = {
        "nr_dirty": of["dirty"],
        "nr_writeback": of["writeback"],
        "nr_unstable": 0,
    }
    pages |= {
        "nr_page_table_pages": 0,
        "nr_mapped": of["anon"] + of["mapped"],
        "nr_slab": 0,
    }
    return _lines(pages)


def _states(counted: Counted) -> dict[str, int]:
    of = counted.pages
    pages = {"nr_free_pages": of["free"], "nr_mlock": of["mlocked"]}
    if counted.lists is not None:
        pages |= {
            "nr_inactive_anon": counted.lists.inactive_anon,
            "nr_active_anon": counted.lists.active_anon,
            "nr_inactive_file": counted.lists.inactive_file,
            "nr_active_file": counted.lists.active_file,
        }
    pages |= {
        "nr_unevictable": 0,
        "nr_anon_pages": of["anon"],
        "nr_mapped": of["mapped"],
    }
    pages |= {"nr_file_pages": of["file"], "nr_dirty": of["dirty"]}
    return pages | {"nr_writeback": of["writeback"], "nr_shmem": of["shmem"]}


def _lines(counts: Mapping[str, int]) -> str:
    return "".join(f"{name} {count}\n" for name, count in counts.items())
