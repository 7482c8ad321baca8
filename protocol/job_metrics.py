"""TABLE: the metrics of migration jobs; ``metrics.py`` has all others."""

from __future__ import annotations

from protocol import labels, notes
from protocol.labels import Role
from protocol.metric import Kind, Metric, Sample

_COORDINATOR = (Role.COORDINATOR,)


def _by_state(note: notes.JobsCounted) -> tuple[Sample, ...]:
    counted = {"running": note.running, "paused": note.paused, "waiting": note.waiting}
    return tuple(((state,), jobs) for state, jobs in counted.items())


def _seconds_left(note: notes.JobsCounted) -> tuple[Sample, ...]:
    return (((), max(note.seconds, 0.0)),)


JOBS: tuple[Metric, ...] = (
    Metric(
        "numalab_jobs",
        Kind.GAUGE,
        (labels.JOB_STATE,),
        "Migration jobs under way, by state.",
        _COORDINATOR,
        ((notes.JobsCounted, _by_state),),
    ),
    Metric(
        "numalab_jobs_backlog_pages",
        Kind.GAUGE,
        (),
        "Pages that the jobs under way have not tried yet.",
        _COORDINATOR,
        ((notes.JobsCounted, lambda n: (((), n.backlog),)),),
    ),
    Metric(
        "numalab_jobs_left",
        Kind.GAUGE,
        (),
        "Seconds of running until the last job is done, at its rate of late; 0: nobody knows.",
        _COORDINATOR,
        ((notes.JobsCounted, _seconds_left),),
    ),
    Metric(
        "numalab_jobs_ended_total",
        Kind.COUNTER,
        (labels.JOB_END,),
        "Migration jobs that are over, by how they ended.",
        _COORDINATOR,
        ((notes.JobEnded, lambda n: (((n.state,), 1),)),),
    ),
)
