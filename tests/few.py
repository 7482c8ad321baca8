"""Migrations that go the short way, in a lab."""

from __future__ import annotations

from collections.abc import Callable

from coordinator.pagelist import FEW_PAGES
from protocol.messages import Done
from protocol.profile import SEED, Profile
from tests.calls import migration
from tests.lab import Lab

MakeLab = Callable[..., Lab]
SHORT = {"few_pages": FEW_PAGES}


def short(make_lab: MakeLab, profile: Profile = SEED, nodes: int = 4) -> Lab:
    return make_lab(nodes=nodes, profile=profile, **SHORT)


def told(lab: Lab, pid: int, source: int, target: int) -> int:
    call = lab.start(migration(0, pid, (source,), (target,)))
    lab.run()
    return call


def value(lab: Lab, call: int) -> int:
    answer = lab.answer_to(call)
    assert isinstance(answer, Done), f"the call was answered {answer}"
    return answer.value
