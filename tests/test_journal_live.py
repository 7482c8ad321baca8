"""A coordinator that cannot keep its journal ends, with one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import trio

from numalab import cluster, connect, processes
from numalab.rundirectory import last_line
from protocol.core import JournalError
from protocol.live.process import Configuration, run_process
from protocol.topology import Topology
from tests.test_journal_damage import flip


async def test_a_full_disk_ends_the_coordinator(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, journal = tmp_path / "machine", small_disk / "journal"
    monkeypatch.setattr("numalab.rundirectory.JOURNAL", str(journal))
    settings = cluster.Settings(Topology.uniform(2, "4M"), metrics=False)
    with trio.fail_after(60):
        await cluster.up(settings, directory, parent=os.getpid())
        coordinator = cluster.running(directory)["coordinator"]
        async with connect(directory) as machine, trio.open_nursery() as nursery:
            task = await machine.spawn()
            acknowledged = 0

            async def fill_the_journal() -> None:
                nonlocal acknowledged
                while True:
                    await task.mmap(4096, name=f"/{acknowledged:04000}")
                    acknowledged += 1

            nursery.start_soon(fill_the_journal)
            await processes.ended(coordinator)
            nursery.cancel_scope.cancel()
        assert acknowledged > 10
        said = last_line(directory / "coordinator.log")
        assert said.startswith(f"the journal {journal} cannot be written (")
        assert said.endswith("make room on its disk, then start again")
        assert "Traceback" not in (directory / "coordinator.log").read_text()
        await cluster.down(directory)


async def test_a_damaged_journal_is_not_started_from(tmp_path: Path) -> None:
    directory = tmp_path / "machine"
    settings = cluster.Settings(Topology.uniform(2, "4M"), metrics=False)
    with trio.fail_after(60):
        await cluster.up(settings, directory, parent=os.getpid())
        async with connect(directory) as machine:
            await machine.spawn()
        coordinator = cluster.running(directory)["coordinator"]
        os.kill(coordinator.pid, 9)
        await processes.ended(coordinator)
        flip(directory / "journal-wal", 100)
        before = (directory / "journal").read_bytes()
        process = cluster.restart(directory, "coordinator")
        await processes.ended(process)
        said = last_line(directory / "coordinator.log")
        assert said.startswith(f"the journal {directory / 'journal'} is damaged (")
        assert (directory / "journal").read_bytes() == before
        await cluster.down(directory)


def test_a_journal_that_fails_is_an_exit_code_and_a_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "configuration.json"
    key = "00" * 16
    path.write_text(json.dumps({"bind": "", "peers": {}, "key": key, "nids": [0]}))

    async def serve(_: Configuration) -> None:
        async with trio.open_nursery():
            raise JournalError("the journal cannot be written")

    assert run_process(["", str(path)], Configuration, serve) == 1
    assert capfd.readouterr().err == "the journal cannot be written\n"
