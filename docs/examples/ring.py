"""An extension of the machine: load it with ``numalab up --load docs/examples/ring.py``."""

import errno

import numpy as np

from coordinator.calls import Ask, ask_all
from protocol.messages import CountZone
from protocol.schema import node_name


def register(machine):
    nids = np.array(machine.nids)

    def ring(pagelist, rows, private):
        """new_page_t: neighbours go to neighbouring nodes, wherever they were to go."""
        return nids[pagelist.page[rows] % nids.size]

    machine.new_page("ring", ring)
    machine.vm_ops("[careful]", migrate=only_if_there_is_room)
    machine.a_ops("[stubborn]", migratepage=stay)


def only_if_there_is_room(memory, vma, from_nodes, to_nodes, flags):
    """vm_ops->migrate: ask the targets first, and let nothing move if they are nearly full."""
    asks = [Ask(node_name(nid), CountZone()) for nid in sorted(to_nodes)]
    counts = yield from ask_all(asks)
    free = sum(count.free for count in counts)
    return 0 if free >= vma.present().size else -errno.ENOMEM


def stay(mapping, pages):
    """a_ops->migratepage: these pages stay where they are."""
    return np.full(pages, -errno.EIO, np.int32)
