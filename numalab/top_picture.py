"""What ``numalab top`` shows, as lines of text that fit into a width and a height.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from rich.text import Text

from numalab.top_rates import Flow, MigrationRow, NodeRow, View, Wait

STYLES = {"up": "green", "offline": "yellow", "recovering": "yellow", "away": "bold red"}
BAR = 8
#: Lines that are kept for what is below the nodes.
BELOW = 7
FLOW_WIDTH = 26


class _Column(NamedTuple):
    """rank: of the columns, the one with the highest goes first where there is no room."""

    title: str
    width: int
    rank: int
    text: Callable[[NodeRow], str]


_COLUMNS = (
    _Column("NODE", 4, 0, lambda row: str(row.node)),
    _Column("STATE", 10, 0, lambda row: row.state),
    _Column("USED", 5, 1, lambda row: short(_used(row))),
    _Column("FREE", 5, 2, lambda row: short(row.free)),
    _Column("FULL", BAR, 5, lambda row: bar(_used(row), row.frames)),
    _Column("ACTIVE", 6, 6, lambda row: short(row.active)),
    _Column("INACT", 5, 6, lambda row: short(row.inactive)),
    _Column("HIT/s", 5, 4, lambda row: short(row.hits)),
    _Column("MISS/s", 6, 4, lambda row: short(row.misses)),
    _Column("LOAD/s", 6, 3, lambda row: short(row.loads)),
    _Column("STORE/s", 7, 3, lambda row: short(row.stores)),
)


def picture(view: View, width: int, height: int, title: str = "") -> Text:
    """One frame: at most ``height`` lines of at most ``width`` columns."""
    lines = [*_head(view, title, width), *_nodes(view, width, height)]
    below = [*_migrations(view, width), *_wait(view)]
    room = max(1, height - len(lines) - len(below))
    lines += [*_flows(view, width, room), *below]
    for line in lines:
        line.truncate(max(width, 0))
    return Text("\n", no_wrap=True, overflow="crop").join(lines[: max(height, 0)])


# ---- its parts -----------------------------------------------------------------------------


def _head(view: View, title: str, width: int) -> Iterator[Text]:
    up = sum(row.state == "up" for row in view.nodes)
    epoch = f"epoch {view.epoch}" if view.epoch else "coordinator away"
    words = [f"numalab top {title}".rstrip(), epoch, f"{up} of {len(view.nodes)} nodes up"]
    if view.restarts is not None:
        words.append(f"{view.restarts} restarts")
    yield Text(", ".join([*words, f"{view.seconds:.1f} s"]), "bold")
    for note in view.notes:
        yield from _wrapped(note, width, "bold red" if not view.epoch else "yellow")


def _nodes(view: View, width: int, height: int) -> Iterator[Text]:
    columns = list(_COLUMNS)
    while len(columns) > 1 and sum(column.width + 1 for column in columns) - 1 > width:
        rank = max(column.rank for column in columns)
        columns = [column for column in columns if column.rank < rank] or columns[:1]
    yield Text(" ".join(f"{column.title:>{column.width}}" for column in columns), "reverse")
    room = max(1, height - 2 - len(view.notes) - BELOW)
    shown = view.nodes if len(view.nodes) <= room else view.nodes[: max(0, room - 1)]
    for row in shown:
        line = Text()
        for at, column in enumerate(columns):
            style = STYLES.get(row.state, "") if column.title == "STATE" else ""
            line.append(" " * bool(at)).append(f"{column.text(row):>{column.width}}", style)
        yield line
    if len(shown) < len(view.nodes):
        yield Text(f"and {len(view.nodes) - len(shown)} nodes more", "dim")


def _flows(view: View, width: int, room: int) -> Iterator[Text]:
    """The largest flows, as many as there is room for."""
    a_line = max(1, (width - 6) // FLOW_WIDTH)
    if not view.flows:
        yield Text("FLOWS none" if any(row.loads is not None for row in view.nodes) else "FLOWS -")
        return
    for start in range(0, min(len(view.flows), a_line * room), a_line):
        cells = "".join(f"{_flow(flow):<{FLOW_WIDTH}}" for flow in view.flows[start:][:a_line])
        yield Text(("FLOWS " if not start else "      ") + cells.rstrip())


def _flow(flow: Flow) -> str:
    return f"{flow.source}>{flow.target} {short(flow.pages)}/s {flow.bytes / 1e6:.1f} MB/s"


def _migrations(view: View, width: int) -> Iterator[Text]:
    words = ["MIGRATED"]
    if view.moved is not None and view.retried is not None:
        words.append(f"{short(view.moved)} pages/s, {short(view.retried)}/s retried,")
    if view.calls is not None:
        words.append(f"{view.calls} calls under way,")
    if view.failed is not None:
        told = ", ".join(f"{name} {count}" for name, count in sorted(view.failed.items()))
        words.append(f"failed: {told or 'none'}")
    if len(words) == 1:
        words.append("-")
    yield from _wrapped(" ".join(words), width, "red" if view.failed else "")
    for row in view.migrations[:3]:
        yield Text(_migration(row))
    if len(view.migrations) > 3:
        yield Text(f"  and {len(view.migrations) - 3} more", "dim")


def _migration(row: MigrationRow) -> str:
    share = 100 * row.settled // row.listed
    rate = "" if row.rate is None else f", {short(row.rate)}/s"
    eta = "" if row.eta is None else f", ETA {time_text(row.eta)}"
    pages = f"{short(row.settled)} of {short(row.listed)}"
    return f"  {bar(row.settled, row.listed)} {share:3}% {pages}{rate}{eta}, {row.name}"


def _wait(view: View) -> Iterator[Text]:
    # What was counted in the interval is known or not as that of the migrations is.
    yield Text(f"WAITED {'-' if view.failed is None else _waited(view.wait)}")


def _waited(wait: Wait | None) -> str:
    if wait is None:
        return "no fault"
    most = "> 10 s" if wait.most is None else f"<= {time_text(wait.most)}"
    return f"{wait.faults} faults, p50 {time_text(wait.p50)}, p99 {time_text(wait.p99)}, max {most}"


# ---- words ---------------------------------------------------------------------------------


def short(number: float | None) -> str:
    """At most five columns: 0.5, 9999, 12.3k, 4.6M; ``-`` for what is not known."""
    if number is None:
        return "-"
    if number < 9999.5:
        return f"{number:.1f}" if 0 < number < 9.95 and number % 1 else f"{number:.0f}"
    for unit in "kMGTP":
        number /= 1000
        if number < 999.5:
            return f"{number:.1f}{unit}" if number < 99.95 else f"{number:.0f}{unit}"
    return "many"


def time_text(seconds: float) -> str:
    """230 us, 4.5 ms, 1.2 s, 3 min."""
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms"), (120.0, 1.0, "s")):
        if seconds < limit:
            amount = seconds * factor
            return f"{amount:.1f} {unit}" if amount < 9.95 else f"{amount:.0f} {unit}"
    return f"{seconds / 60:.0f} min"


def bar(part: int | None, whole: int | None) -> str:
    """``[||||  ]``; the characters of every terminal."""
    if part is None or not whole:
        return " " * BAR
    full = round((BAR - 2) * min(part, whole) / whole)
    return f"[{'|' * full:<{BAR - 2}}]"


def _used(row: NodeRow) -> int | None:
    return None if row.frames is None or row.free is None else row.frames - row.free


def _wrapped(text: str, width: int, style: str) -> Iterator[Text]:
    """In lines; not textwrap's, which refuses widths of 0."""
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            yield Text(line, style)
            line = f"  {word}"
        else:
            line = f"{line} {word}".strip() if not line.startswith("  ") else f"{line} {word}"
    if line:
        yield Text(line, style)
