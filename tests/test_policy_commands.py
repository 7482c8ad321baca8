"""The console's commands about policies, the API beside them, and rows of a profile set by hand."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import trio

import numalab as nl
from numalab.constants import MPOL_BIND, MPOL_WEIGHTED_INTERLEAVE
from numalab.policy_commands import format_mode, parse_mode
from protocol.core import ConfigurationError
from protocol.profile import MODERN, SEED, adjusted
from tests.live import Numalab

PAGE = 4096


def test_a_mode_is_read_and_written() -> None:
    for text in ("default", "bind=static", "interleave=relative", "bind=static|balancing"):
        assert format_mode(parse_mode(text)) == text
    with pytest.raises(Exception, match="'bin' is no mode: write default, preferred"):
        parse_mode("bin")


def test_a_row_of_a_profile_is_set_by_hand() -> None:
    assert adjusted(SEED, {"last_vma_skipped": True}).last_vma_skipped
    assert adjusted(MODERN, {}) == MODERN
    with pytest.raises(ConfigurationError, match="There is no behaviour 'colour'"):
        adjusted(SEED, {"colour": True})
    with pytest.raises(ConfigurationError, match="that is on or off"):
        adjusted(SEED, {"policy_separator": True})


def test_policies_by_commands_and_by_the_api_on_real_processes() -> None:
    async def scenario() -> None:
        weighted = {"weighted_interleave": True}
        with trio.fail_after(60):
            async with nl.local_cluster(
                nodes=3, memory="8M", profile="modern", behaviours=weighted
            ) as machine:
                task = await machine.spawn(cpu=0)
                base = await task.mmap(8 * PAGE)
                await machine.weights.write(1, 3)
                assert await machine.weights.read() == {0: 1, 1: 3, 2: 1}
                await task.mbind(base, 4 * PAGE, MPOL_WEIGHTED_INTERLEAVE, [0, 1])
                await task.store(base, bytes(4 * PAGE))
                addresses = [base + page * PAGE for page in range(4)]
                nodes = await task.move_pages(task.pid, addresses, None)
                assert sorted(nodes) == [0, 1, 1, 1]
                await task.mbind(base + 4 * PAGE, 4 * PAGE, MPOL_BIND, [0, 2])
                await task.set_mempolicy_home_node(base + 4 * PAGE, 4 * PAGE, 2)
                await task.store(base + 4 * PAGE, b"home")
                assert await task.move_pages(task.pid, [base + 4 * PAGE], None) == [2]
                with pytest.raises(OSError) as refused:
                    await task.set_mempolicy_home_node(base, PAGE, 1)
                assert refused.value.errno == errno.EOPNOTSUPP

    trio.run(scenario)


def test_the_commands_of_a_shared_machine(numalab: Numalab, run_directory: Path) -> None:
    async def spawned() -> tuple[int, int]:
        async with nl.connect(run_directory) as machine:
            task = await machine.spawn(cpu=0, leased=False)
            base = await task.mmap(4 * PAGE)
            await task.store(base, bytes(4 * PAGE))
            return task.pid, base

    pid, base = trio.run(spawned)
    address = f"{base:x}"
    assert numalab("set-mempolicy", pid, "interleave", "0-1").code == 0
    assert numalab("get-mempolicy", pid).out == "interleave 0-1\n"
    assert numalab("get-mempolicy", pid, address).out == "default\n"
    assert numalab("mbind", pid, address, 2, "bind", "2", "--move", "--strict").code == 0
    assert numalab("get-mempolicy", pid, address, "--json").document["nodes"] == [2]
    assert " N2=2" in numalab("numa-maps", pid).out
    said = numalab("set-mempolicy", pid, "bind=sticky", "0")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "is no mode" in said.err
    for words in (
        ("set-mempolicy", 9999, "default"),
        ("set-mempolicy", pid, "bind"),
        ("mbind", pid, "7fff00000000", 1, "bind", "0", "--move"),
    ):
        refused = numalab(*words)
        assert refused.code == 1, words
        assert refused.err.count("\n") == 1


def test_up_refuses_a_behaviour_that_it_does_not_know(numalab: Numalab, tmp_path: Path) -> None:
    for given, sentence in (
        ("colour=on", "There is no behaviour 'colour'"),
        ("mbind_merges", "write NAME=on or NAME=off"),
    ):
        said = numalab("up", "--run-directory", tmp_path / "no", "--behaviour", given)
        assert said.code == 2
        assert sentence in said.err
