"""What is generated from the program: parts of the documentation, and ``numalab.blocking``.

``python -m numalab.documents`` writes them anew; run it at the top of the checkout.
"""

from __future__ import annotations

import re
from pathlib import Path

from coordinator.life import FINAL, INITIAL, PLACES, TRANSITIONS, Transition
from numalab import blocking_source
from protocol.behaviours import BEHAVIOURS
from protocol.codec import TABLES
from protocol.metric import BUCKETS, Metric
from protocol.metrics import TABLE, TRANSPORT
from protocol.profile import MODERN, SEED
from protocol.schema import MESSAGES, RETIRED, Row

_MESSAGES_HEAD = """\
# The messages

Generated from `protocol/messages.py` and the tables beside it by `make docs`.

Every message is one zmq message. Its first frame is an xxh3_64 digest (8 bytes, little endian) and
then a msgpack array: the envelope, the scalar fields, and for each array field (`U8`, `U16`, `U32`,
`U64`, `I32`) and the page contents (`Data`), in field order, either the bytes, if they are at most
128, or length and digest of a further frame that has them; little endian. All arrays of a message
have the same length, a row for each page, but for the `Plain` ones. A status is 0 or a negative
errno. `Word` is a signed, `Unsigned` a non-negative number of 64 bits, `Node` is 0..254.

Any question may also be answered with `Done` and a negative errno. *Idempotent* means: a question
that comes again is executed again, instead of being answered from the cache.

| number | message | from, to | fields | answer | meaning |
|---|---|---|---|---|---|
"""


def messages_table() -> str:
    """docs/messages.md: a line for each row of ``protocol.schema.MESSAGES``, by number."""
    assert TABLES, "the messages are declared"
    lines = [_line(MESSAGES[opcode]) for opcode in sorted(MESSAGES)]
    retired = ", ".join(f"{opcode:#04x}" for opcode in sorted(RETIRED)) or "none"
    return (
        _MESSAGES_HEAD + "".join(lines) + f"\nRetired numbers, never to be used again: {retired}.\n"
    )


def _line(row: Row) -> str:
    fields = "<br>".join(
        f"`{name}` {_type(annotation)}" for name, annotation in row.cls.__annotations__.items()
    )
    answer = f"`{row.answer}`" if row.answer else ""
    if row.idempotent:
        answer += ", idempotent"
    cells = (
        f"{row.opcode:#04x}",
        f"`{row.name}`",
        f"{row.asker}, {row.answerer}",
        fields,
        answer,
        row.meaning.replace("``", "`").replace("|", "\\|"),
    )
    return "| " + " | ".join(cells) + " |\n"


def _type(annotation: str) -> str:
    """As in the source, but for a range, which reads ``0..1``."""
    return re.sub(r"Annotated\[int, Meta\(ge=(\w+), le=(\w+)\)\]", r"\1..\2", annotation)


_METRICS_HEAD = f"""\
# The metrics

Generated from `protocol/metrics.py` by `make docs`.

Every process serves its metrics at `/metrics`, in Prometheus' text format; of the clients
`numalab workload --metrics HOST:PORT` does, without those of the transport. Names follow
`/proc/vmstat` and `numastat` where those have one. Process says which processes have the metric;
fed by, what in the program raises it: a note of `protocol/notes.py`, or a count of the transport.
The series of all nodes that are known at the start are there from the start. Beside these, a
page has the `process_` metrics of prometheus_client: `process_start_time_seconds` tells restarts.

The histograms count seconds, in {len(BUCKETS)} buckets from {BUCKETS[0] * 1e6:g} us to
{BUCKETS[-1]:g} s.

| metric | kind | labels | process | fed by | meaning |
|---|---|---|---|---|---|
"""


def metrics_table() -> str:
    """docs/metrics.md: a line for each row of ``protocol.metrics``, in the order of the table."""
    transport = (
        _cells(
            row.name, "counter", [label.name for label in row.labels], "all", "transport", row.help
        )
        for row in TRANSPORT
    )
    return _METRICS_HEAD + "".join((*map(_metric_line, TABLE), *transport))


def _metric_line(row: Metric) -> str:
    return _cells(
        row.name,
        row.kind.value,
        [label.name for label in row.labels],
        "all" if len(row.roles) > 1 else row.roles[0].value,
        ", ".join(f"`{note.__name__}`" for note, _ in row.feeds),
        row.help,
    )


def _cells(name: str, kind: str, labels: list[str], process: str, fed_by: str, help: str) -> str:
    listed = ", ".join(f"`{label}`" for label in labels)
    return f"| `{name}` | {kind} | {listed} | {process} | {fed_by} | {help} |\n"


_LIFE_HEAD = """\
# The life of a page under migration

Generated from `coordinator/life.py` by `make docs`.

Every page of a page list is in one of these states. A state in -ING means that exactly one question
about the page is outstanding; any other means none. The arrows say what the answer (or, where
nothing is asked, the pass) was. `fails`: the page has failed for good; where the next arrow says
`if failed`, that one is taken then. `resolves`: the answer is unknown, and the next question is
right whichever it was. A page meets no status that is not in the table: that would be a mistake of
ours, which ends the process and prints the story of the page.

```mermaid
stateDiagram-v2
"""

_LIFE_STATES = """\
```

| state | asks | meaning |
|---|---|---|
"""

_LIFE_STEPS = """
| state | on | goes to | and |
|---|---|---|---|
"""


def life_of_a_page() -> str:
    """docs/life-of-a-page.md: the drawing, the states and the steps of ``coordinator.life``."""
    begins = [f"    [*] --> {state.name}\n" for state in INITIAL]
    arrows = [_arrow(row.state.name, row.goes_to.name, _label(row)) for row in TRANSITIONS]
    arrows += [
        _arrow(row.state.name, row.if_failed.name, f"{row.column.name}, if failed")
        for row in TRANSITIONS
        if row.if_failed is not None
    ]
    ends = [f"    {state.name} --> [*]\n" for state in FINAL]
    states = [
        f"| `{state.name}` | {place.asks} | {place.meaning} |\n" for state, place in PLACES.items()
    ]
    steps = [_step_line(row) for row in TRANSITIONS]
    return "".join(
        (_LIFE_HEAD, *begins, *arrows, *ends, _LIFE_STATES, *states, _LIFE_STEPS, *steps)
    )


def _arrow(state: str, goes_to: str, label: str) -> str:
    return f"    {state} --> {goes_to}: {label}\n"


def _label(row: Transition) -> str:
    """In a drawing a colon begins the label, so there is none in it."""
    effect = row.effect.replace(":", ",").replace("->", "to")
    return ", ".join((row.column.name, effect, *_marks(row)))


def _marks(row: Transition) -> list[str]:
    return ["fails"] * row.fails + ["resolves"] * row.resolves


def _step_line(row: Transition) -> str:
    goes_to = f"`{row.goes_to.name}`"
    if row.if_failed is not None:
        goes_to += f", `{row.if_failed.name}` if failed"
    said = ", ".join((row.effect, *_marks(row)))
    return f"| `{row.state.name}` | {row.column.name} | {goes_to} | {said} |\n"


#: Every generated page, by its path.
_PROFILES_HEAD = """\
# The profiles

Generated from `protocol/profile.py` by `make docs`.

`seed` is the kernel of June 2006 (commit 7b2259b3), `modern` is Linux 6.1. The program asks this
table for a behaviour, never which version it plays.

| behaviour | fact | meaning | seed | modern |
|---|---|---|---|---|
"""


def profiles_table() -> str:
    """docs/profiles.md: a line for each row of ``protocol.behaviours.BEHAVIOURS``."""
    lines = (
        f"| `{row.field}` | {row.fact} | {row.meaning} | `{getattr(SEED, row.field)}` "
        f"| `{getattr(MODERN, row.field)}` |\n"
        for row in BEHAVIOURS
    )
    return _PROFILES_HEAD + "".join(lines)


PAGES = {
    "docs/profiles.md": profiles_table,
    "docs/messages.md": messages_table,
    "docs/metrics.md": metrics_table,
    "docs/life-of-a-page.md": life_of_a_page,
}

if __name__ == "__main__":
    for path, page in PAGES.items():
        Path(path).write_text(page())
    blocking_source.write()
