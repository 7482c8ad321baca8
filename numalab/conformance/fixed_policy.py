"""Fixed scenarios: set_mempolicy(2), get_mempolicy(2), set_mempolicy_home_node(2), placement."""

from __future__ import annotations

from numalab.conformance.scenario import Scenario
from numalab.conformance.steps import (
    BALANCING,
    BIND,
    DEFAULT,
    F_ADDR,
    F_MEMS_ALLOWED,
    F_NODE,
    INTERLEAVE,
    LOCAL,
    PREFERRED,
    PREFERRED_MANY,
    RELATIVE,
    STATIC,
    WEIGHTED,
    Nodes,
    clone,
    fork,
    get_mempolicy,
    home_node,
    mbind,
    mmap,
    raw,
    read,
    run_on,
    scenario,
    set_mempolicy,
    spawn,
    touched,
    write,
)

MODES = {
    "DEFAULT": DEFAULT,
    "PREFERRED": PREFERRED,
    "BIND": BIND,
    "INTERLEAVE": INTERLEAVE,
    "LOCAL": LOCAL,
    "PREFERRED_MANY": PREFERRED_MANY,
}

#: Node masks that every mode is tried with.
NODES: dict[str, Nodes] = {
    "no nodes": None,
    "an empty mask": [],
    "node 2": [2],
    "nodes 1 and 3": [1, 3],
    "node 9": [9],
    "nodes 2 and 9": [2, 9],
}

#: Modes that need no table of masks: mode, nodes.
ODD: dict[str, tuple[int, Nodes]] = {
    "mode 6": (WEIGHTED, [0, 1]),
    "mode 7": (7, [0, 1]),
    "mode -1": (-1, [0, 1]),
    "BIND static": (BIND | STATIC, [1, 2]),
    "BIND relative": (BIND | RELATIVE, [1, 2]),
    "BIND static and relative": (BIND | STATIC | RELATIVE, [1, 2]),
    "INTERLEAVE static": (INTERLEAVE | STATIC, [0, 3]),
    "INTERLEAVE relative": (INTERLEAVE | RELATIVE, [0, 3]),
    "INTERLEAVE relative beyond": (INTERLEAVE | RELATIVE, [1, 6]),
    "PREFERRED static": (PREFERRED | STATIC, [3]),
    "PREFERRED static, empty": (PREFERRED | STATIC, []),
    "PREFERRED relative, empty": (PREFERRED | RELATIVE, []),
    "PREFERRED relative": (PREFERRED | RELATIVE, [2]),
    "LOCAL static": (LOCAL | STATIC, []),
    "LOCAL relative": (LOCAL | RELATIVE, None),
    "DEFAULT static": (DEFAULT | STATIC, None),
    "DEFAULT static, empty": (DEFAULT | STATIC, []),
    "BIND balancing": (BIND | BALANCING, [0, 1]),
    "BIND balancing and static": (BIND | BALANCING | STATIC, [0, 1]),
    "PREFERRED balancing": (PREFERRED | BALANCING, [1]),
    "INTERLEAVE balancing": (INTERLEAVE | BALANCING, [1, 2]),
    "PREFERRED_MANY static": (PREFERRED_MANY | STATIC, [1, 3]),
    "BIND with an unknown flag": (BIND | 1 << 12, [1]),
    "PREFERRED with many nodes": (PREFERRED, [3, 1, 2]),
    "BIND, maxnode 0": (BIND, raw(0, "02" + "00" * 7)),
    "BIND, unreadable": (BIND, raw(65, bad=True)),
    "BIND, maxnode 2": (BIND, raw(2, "03" + "00" * 7)),
    "DEFAULT, maxnode 1": (DEFAULT, raw(1, "01" + "00" * 7)),
    "DEFAULT, unreadable": (DEFAULT, raw(65, bad=True)),
    "mode 7, unreadable": (7, raw(65, bad=True)),
    "BIND, too many bits": (BIND, raw(40000, "02" + "00" * 7)),
}


def mode_scenarios() -> list[Scenario]:
    """Set, read back, and see where new pages go."""
    cases = [
        (f"{mode} with {nodes}", MODES[mode], NODES[nodes]) for mode in MODES for nodes in NODES
    ]
    cases += [(name, mode, nodes) for name, (mode, nodes) in ODD.items()]
    return [
        scenario(
            f"set_mempolicy {name}",
            set_mempolicy(mode, nodes),
            get_mempolicy(),
            mmap("a", 6),
            write(["a", 0], 6),
        )
        for name, mode, nodes in cases
    ]


#: What get_mempolicy is asked, of a machine with a task policy and a bound area b: the step.
QUESTIONS = {
    "nothing": get_mempolicy(maxnode=None),
    "the policy": get_mempolicy(),
    "with an address and no flag": get_mempolicy(["a", 0]),
    "of an address": get_mempolicy(["a", 0], F_ADDR),
    "of a bound address": get_mempolicy(["b", 1], F_ADDR),
    "of an address inside of a page": get_mempolicy(["b", 1, 77], F_ADDR),
    "of a hole": get_mempolicy(["a", 5], F_ADDR),
    "of address 0": get_mempolicy(flags=F_ADDR),
    "the node of a page": get_mempolicy(["a", 0], F_ADDR | F_NODE),
    "the node of an untouched page": get_mempolicy(["a", 3], F_ADDR | F_NODE),
    "the node of an untouched bound page": get_mempolicy(["b", 1], F_ADDR | F_NODE),
    "the node of a hole": get_mempolicy(["a", 5], F_ADDR | F_NODE),
    "the node alone": get_mempolicy(flags=F_NODE),
    "the mems": get_mempolicy(flags=F_MEMS_ALLOWED),
    "the mems and a node": get_mempolicy(flags=F_MEMS_ALLOWED | F_NODE),
    "the mems and an address": get_mempolicy(["a", 0], F_MEMS_ALLOWED | F_ADDR),
    "the mems without a mask": get_mempolicy(flags=F_MEMS_ALLOWED, maxnode=None),
    "flag 8": get_mempolicy(flags=8),
    "with too small a mask": get_mempolicy(maxnode=2),
    "with maxnode 4": get_mempolicy(maxnode=4),
    "with maxnode 5": get_mempolicy(maxnode=5),
    "with maxnode 64": get_mempolicy(maxnode=64),
    "with maxnode 1": get_mempolicy(maxnode=1),
    "with a mask of more than a page": get_mempolicy(maxnode=40000),
}


def question_scenarios() -> list[Scenario]:
    return [
        scenario(
            f"get_mempolicy {name}",
            set_mempolicy(PREFERRED, [2]),
            mmap("a", 4),
            write(["a", 0], 1),
            mmap("b", 2),
            mbind(["b", 0], 2, BIND, [1, 3]),
            question,
        )
        for name, question in QUESTIONS.items()
    ]


def placement_scenarios() -> list[Scenario]:
    """Where a mode puts pages when the task runs on each cpu."""
    found = []
    for cpu in (0, 1, 3):
        for name, mode, nodes in (
            ("BIND 0,3", BIND, [0, 3]),
            ("BIND 1,2", BIND, [1, 2]),
            ("INTERLEAVE 1-3", INTERLEAVE, [1, 2, 3]),
            ("PREFERRED 2", PREFERRED, [2]),
            ("PREFERRED_MANY 1,2", PREFERRED_MANY, [1, 2]),
            ("LOCAL", LOCAL, []),
        ):
            steps = run_on(cpu), set_mempolicy(mode, nodes), touched("a", 5)
            found.append(scenario(f"{name} on cpu {cpu}", *steps, touched("b", 3, value=50)))
    return found


OTHERS = (
    scenario("the policy before anything", get_mempolicy()),
    scenario(
        "back to DEFAULT",
        set_mempolicy(BIND, [2]),
        set_mempolicy(DEFAULT),
        get_mempolicy(),
        touched("a", 2),
    ),
    scenario(
        "a child inherits the policy",
        set_mempolicy(INTERLEAVE, [1, 2]),
        fork("u", 1),
        get_mempolicy(by="u"),
        touched("a", 4, by="u"),
    ),
    scenario(
        "a child changes its own policy alone",
        set_mempolicy(BIND, [1]),
        fork("u", 1),
        set_mempolicy(BIND, [2], "u"),
        get_mempolicy(),
        get_mempolicy(by="u"),
    ),
    scenario(
        "a thread has its own policy",
        set_mempolicy(BIND, [1]),
        clone("u", 2),
        set_mempolicy(BIND, [3], "u"),
        get_mempolicy(),
        mmap("a", 4),
        write(["a", 0], 2),
        write(["a", 2], 2, 5, "u"),
    ),
    scenario(
        "the policy moves no page", touched("a", 4), set_mempolicy(BIND, [3]), read(["a", 0], 4)
    ),
    scenario(
        "copies of a fork go where the writer's policy says",
        touched("a", 4),
        fork("u", 1),
        set_mempolicy(BIND, [3], "u"),
        write(["a", 0], 2, 9, "u"),
        write(["a", 2], 1, 9),
    ),
    scenario(
        "interleave by address, not by touch",
        set_mempolicy(INTERLEAVE, [0, 1, 2, 3]),
        mmap("a", 8),
        write(["a", 5], 1),
        write(["a", 0], 1),
        write(["a", 2], 3),
    ),
    scenario(
        "interleave over two areas",
        set_mempolicy(INTERLEAVE, [0, 1, 2]),
        touched("a", 3),
        touched("b", 5),
    ),
    scenario(
        "the next interleave node",
        set_mempolicy(INTERLEAVE, [1, 2, 3]),
        get_mempolicy(flags=F_NODE, maxnode=None),
    ),
    scenario(
        "zero pages have no place",
        set_mempolicy(BIND, [3]),
        mmap("a", 3),
        read(["a", 0], 3),
        write(["a", 0], 2),
    ),
    scenario(
        "shared memory by the task's policy", set_mempolicy(BIND, [2]), touched("a", 4, shared=True)
    ),
    scenario(
        "shared memory that another touches",
        set_mempolicy(BIND, [2]),
        mmap("a", 4, shared=True),
        fork("u", 1),
        set_mempolicy(BIND, [3], "u"),
        write(["a", 0], 2, 5, "u"),
        write(["a", 2], 2),
    ),
    scenario(
        "home node of BIND",
        mmap("a", 4),
        mbind(["a", 0], 4, BIND, [1, 3]),
        home_node(["a", 0], 4, 3),
        write(["a", 0], 4),
    ),
    scenario(
        "home node of PREFERRED_MANY",
        mmap("a", 4),
        mbind(["a", 0], 4, PREFERRED_MANY, [1, 2]),
        home_node(["a", 0], 4, 3),
        write(["a", 0], 4),
    ),
    scenario(
        "home node of INTERLEAVE",
        mmap("a", 4),
        mbind(["a", 0], 4, INTERLEAVE, [1, 2]),
        home_node(["a", 0], 4, 3),
    ),
    scenario(
        "home node of PREFERRED",
        mmap("a", 4),
        mbind(["a", 0], 4, PREFERRED, [1]),
        home_node(["a", 0], 4, 3),
    ),
    scenario("home node without a policy", mmap("a", 4), home_node(["a", 0], 4, 3)),
    scenario(
        "home node that is not there",
        mmap("a", 4),
        mbind(["a", 0], 4, BIND, [1]),
        home_node(["a", 0], 4, 9),
    ),
    scenario(
        "home node with flags",
        mmap("a", 4),
        mbind(["a", 0], 4, BIND, [1]),
        home_node(["a", 0], 4, 1, 1),
    ),
    scenario(
        "home node unaligned",
        mmap("a", 4),
        mbind(["a", 0], 4, BIND, [1]),
        home_node(["a", 0, 8], 1, 1),
    ),
    scenario(
        "home node of half an area",
        mmap("a", 4),
        mbind(["a", 0], 4, BIND, [1, 2]),
        home_node(["a", 0], 2, 2),
        write(["a", 0], 4),
    ),
    scenario(
        "home node of a hole",
        mmap("a", 4),
        mbind(["a", 0], 4, BIND, [1]),
        home_node(["a", 5], 2, 1),
    ),
    scenario(
        "two tasks with two policies",
        spawn("u", cpu=2),
        set_mempolicy(BIND, [1]),
        set_mempolicy(INTERLEAVE, [0, 3], "u"),
        touched("a", 4),
        touched("b", 4, by="u"),
    ),
)

SCENARIOS = (*mode_scenarios(), *question_scenarios(), *placement_scenarios(), *OTHERS)
