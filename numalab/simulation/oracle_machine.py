"""What the oracle knows of a machine: plain dicts, one page at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

#: What a page is called: the frame (nid, pfn) that it had when the machine was described.
Name = tuple[int, int]
Nodes = frozenset[int]
#: A mode (MPOL_*) with its flags (MPOL_F_*), and a mask, as a call has them.
Wish = tuple[int, Nodes]


class Undetermined(Exception):
    """The outcome depends on what others do while the call runs."""


@dataclass(frozen=True, slots=True)
class Policy:
    """struct mempolicy.  user: the mask as it was given, if a flag says that it counts.

    mems: what its task might use when it was made, or rebound.
    """

    mode: int
    nodes: Nodes
    flags: int = 0
    user: Nodes = frozenset()
    mems: Nodes = frozenset()


@dataclass(frozen=True, slots=True)
class Cpuset:
    """struct cpuset.  migrates: memory follows when its nodes change (K 5.13)."""

    cpus: frozenset[int]
    mems: Nodes
    migrates: bool = False


@dataclass(slots=True)
class File:
    """What decides how pages of a file move.  kind: of its a_ops, K 1.52 to 1.56.

    fails: its writepage fails.  keeps: its buffers cannot be released.  slow: writeback of it
    takes a time, so that nobody can say how many passes it lasts.
    """

    kind: str
    fails: bool = False
    keeps: bool = False
    slow: bool = False


@dataclass(slots=True)
class Page:
    """struct page, as far as migration looks at it.

    pins: references of others, beyond the page tables' and our own (K 1.48).  locked: PG_locked is
    held by somebody else, who lets go of it at some time if ``unlocks``.  refusal: what the
    mapping's migratepage says, 0 or -errno (K 1.54).  file: whose page cache it is in, if any;
    dirty, writeback and private as the kernel's flags of these names.
    """

    node: int
    pins: int = 0
    locked: bool = False
    unlocks: bool = False
    lru: bool = True
    refusal: int = 0
    file: File | None = None
    dirty: bool = False
    writeback: bool = False
    private: bool = False


@dataclass(slots=True)
class Area:
    """A vma: pages start .. end, the page (a name) at each present address; K 3.6 by ``fixed``.

    structless: its pages have no struct page (VM_PFNMAP).  hook: what its vm_ops->migrate gives.
    private: of anonymous memory that is not shared, whose absent pages read as the zero page.
    """

    start: int
    end: int
    present: dict[int, Name] = field(default_factory=dict)
    fixed: bool = False
    mlocked: bool = False
    structless: bool = False
    private: bool = False
    hook: int = 0
    #: Of its first page in the file or shared object.
    pgoff: int = 0
    #: Of the uncached allocator, whose hook moves granules of several pages.
    uncached: bool = False
    #: vm_policy of each page that has one.
    policies: dict[int, Policy] = field(default_factory=dict)
    #: The object that keeps the policies of its pages, whoever maps it; 0: it has none (K 5.2).
    object: int = 0


@dataclass(slots=True)
class Process:
    """A task and its mm; the areas in address order.  Threads have one list of them."""

    uid: int = 0
    capable: bool = True
    areas: list[Area] = field(default_factory=list)
    #: Of its cpu, and where its pages go if their vma does not say.
    node: int = 0
    policy: Policy | None = None
    cpu: int = 0
    cpuset: str = "/"
    #: Its pid is that of its mm: it is no thread of another.
    leader: bool = True


@dataclass(slots=True)
class Machine:
    """Everything that decides the outcome.

    zonelist: where an allocation for a node is tried, in order (K 1.18, 5.10); the node alone
    means that nothing falls back.  free: frames of each node that exists.
    """

    free: dict[int, int]
    zonelist: dict[int, tuple[int, ...]]
    modern: bool = False
    #: The zonelist of every node, for who may fall back in any case.
    fallback: dict[int, tuple[int, ...]] = field(default_factory=dict)
    pages: dict[Name, Page] = field(default_factory=dict)
    #: (pages to be retried, pages failed for good so far) after every pass of every page list.
    passes: list[tuple[int, int]] = field(default_factory=list)
    #: Frames that came free in the present pass, by node.
    freed: dict[int, int] = field(default_factory=dict)
    processes: dict[int, Process] = field(default_factory=dict)
    #: By path; without any of them there are no limits.
    cpusets: dict[str, Cpuset] = field(default_factory=dict)
    node_of_cpu: dict[int, int] = field(default_factory=dict)
    #: Of pages of objects that keep policies, by (object, index).
    shared_policies: dict[tuple[int, int], Policy] = field(default_factory=dict)
    #: Whether there is WEIGHTED_INTERLEAVE, and turns of each node that has not one of a round.
    weighted: bool = False
    weights: dict[int, int] = field(default_factory=dict)
    #: What the call met, for who wants to know what has been compared.
    met: set[str] = field(default_factory=set)

    def mems(self, process: Process) -> Nodes:
        """mems_allowed: the nodes that the task may use (K 5.12)."""
        cpuset = self.cpusets.get(process.cpuset)
        return frozenset(self.free) if cpuset is None else cpuset.mems

    def policy_at(self, area: Area, page: int) -> Policy | None:
        """What get_mempolicy(2) says of the address (K 4.35)."""
        if area.object:
            return self.shared_policies.get((area.object, area.pgoff + page - area.start))
        return area.policies.get(page)

    def migratable(self, area: Area) -> bool:
        """vma_migratable(): VM_LOCKED matters at the seed only (K 3.6)."""
        if area.mlocked:
            self.met.add("mlocked")
        if area.fixed:
            self.met.add("special")
        return not (area.fixed or (area.mlocked and not self.modern))

    def areas(self) -> list[Area]:
        """All areas, those of a process with several threads once."""
        lists = {id(process.areas): process.areas for process in self.processes.values()}
        return [area for areas in lists.values() for area in areas]

    def mapcount(self, name: Name) -> int:
        """How many page-table entries name the page (K 3.2)."""
        return sum(list(area.present.values()).count(name) for area in self.areas())

    def mlocked(self, name: Name) -> bool:
        """Some vma that maps the page is VM_LOCKED, which matters at the seed (K 1.31)."""
        return not self.modern and any(
            area.mlocked and name in area.present.values() for area in self.areas()
        )
