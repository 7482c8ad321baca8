"""struct cred: whose task it is and what it may do; setresuid(2), capset(2), and who may move whom.

Capabilities are bit sets with the kernel's numbers; only those that the calls here ask for exist.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntFlag
from typing import TYPE_CHECKING

from coordinator.records import CredentialsSet

if TYPE_CHECKING:
    from coordinator.memory import Memory
    from coordinator.mm import Task

EPERM, EINVAL = 1, 22
UID_MAX = (1 << 32) - 2
#: (uid_t) -1: leave this id as it is.
UNCHANGED = -1


class Capability(IntFlag):
    """CAP_*, as bits."""

    SETUID = 1 << 7
    SYS_PTRACE = 1 << 19
    SYS_NICE = 1 << 23


#: A plain number: an enum combines by a function.
SYS_NICE = int(Capability.SYS_NICE)
ALL_CAPABILITIES = Capability.SETUID | Capability.SYS_PTRACE | Capability.SYS_NICE


@dataclass(frozen=True, slots=True)
class Credentials:
    """Real, effective and saved user id; permitted and effective capabilities."""

    uid: int
    euid: int
    suid: int
    permitted: Capability
    effective: Capability

    @classmethod
    def of(cls, uid: int, *, capable: bool) -> Credentials:
        """One id for all three, and all capabilities or none."""
        capabilities = ALL_CAPABILITIES if capable else Capability(0)
        return cls(uid, uid, uid, capabilities, capabilities)


def setresuid(memory: Memory, task: Task, ruid: int, euid: int, suid: int) -> int:
    """setresuid(2): 0, -EINVAL, -EPERM.  Who has no CAP_SETUID chooses among its own ids."""
    asked, old = (ruid, euid, suid), task.cred
    if any(not UNCHANGED <= uid <= UID_MAX for uid in asked):
        return -EINVAL
    own = {old.uid, old.euid, old.suid, UNCHANGED}
    if not old.effective & Capability.SETUID and not own.issuperset(asked):
        return -EPERM
    ids = [was if new == UNCHANGED else new for was, new in zip(_ids(old), asked, strict=True)]
    new = replace(old, uid=ids[0], euid=ids[1], suid=ids[2])
    commit_creds(memory, task, _emulate_setxuid(old, new))
    return 0


def _ids(cred: Credentials) -> tuple[int, int, int]:
    return cred.uid, cred.euid, cred.suid


def _emulate_setxuid(old: Credentials, new: Credentials) -> Credentials:
    """Capabilities follow root's ids: cap_emulate_setxuid()."""
    none = Capability(0)
    if 0 in _ids(old) and 0 not in _ids(new):
        return replace(new, permitted=none, effective=none)
    if old.euid == 0 and new.euid != 0:
        return replace(new, effective=none)
    if old.euid != 0 and new.euid == 0:
        return replace(new, effective=new.permitted)
    return new


def capset(memory: Memory, task: Task, effective: int, permitted: int) -> int:
    """capset(2): 0 or -EPERM.  Capabilities can be dropped, never gained."""
    if permitted & ~task.cred.permitted or effective & ~permitted:
        return -EPERM
    sets = {"permitted": Capability(permitted), "effective": Capability(effective)}
    commit_creds(memory, task, replace(task.cred, **sets))
    return 0


def commit_creds(memory: Memory, task: Task, new: Credentials) -> None:
    """The task has these from now on; who changes its effective id is not dumpable any more."""
    if new.euid != task.cred.euid:
        task.mm.dumpable = False
    task.cred = new
    memory.records.append(
        CredentialsSet(task.pid, *_ids(new), new.permitted, new.effective, int(task.mm.dumpable))
    )


def same_user(caller: Task, target: Task) -> bool:
    """The rule of 2006: caller's euid or uid is target's uid or suid (K 1.2)."""
    mine, theirs = caller.cred, target.cred
    return bool({mine.euid, mine.uid} & {theirs.uid, theirs.suid})


def ptrace_may_access(caller: Task, target: Task) -> bool:
    """PTRACE_MODE_READ_REALCREDS (K 4.8): all ids of the target are the caller's real one.

    Threads of one process may, and who has CAP_SYS_PTRACE.
    """
    if caller.tgid == target.tgid or caller.cred.effective & Capability.SYS_PTRACE:
        return True
    return set(_ids(target.cred)) == {caller.cred.uid} and target.mm.dumpable
