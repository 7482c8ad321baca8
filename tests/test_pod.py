"""What a process finds in a pod: the key in a file, and what the last container left in /tmp."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from numalab.locate import MachineUnreachable, locate
from numalab.serve import KEY, Settings, run_coordinator, run_node
from protocol.topology import Topology

ADDRESS = "tcp://coordinator:7000"
KEY_TEXT = "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NUMALAB_KEY", "NUMALAB_KEY_FILE", "NUMALAB_SECRET_KEY", "NUMALAB_PUBLIC_KEYS"):
        monkeypatch.delenv(name, raising=False)


def test_the_key_of_a_machine_elsewhere_may_be_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY_TEXT}\n")
    monkeypatch.setenv("NUMALAB_KEY_FILE", str(file))
    assert locate(ADDRESS, None)[:2] == (ADDRESS, bytes.fromhex(KEY_TEXT))
    monkeypatch.setenv("NUMALAB_KEY", "ff" * 16)
    assert locate(ADDRESS, None)[1] == b"\xff" * 16
    assert locate(ADDRESS, b"\xee" * 16)[1] == b"\xee" * 16


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, r"key cannot be read \(No such file or directory\)"),
        (b"0123", r"The key in .*key is malformed: it has to be 32 hexadecimal digits"),
        (b"\xff\xfe" * 16, "is malformed"),
    ],
)
def test_what_is_wrong_with_that_file_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("NUMALAB_KEY_FILE", str(file))
    with pytest.raises(MachineUnreachable, match=sentence):
        locate(ADDRESS, None)


def test_without_a_key_both_variables_are_named() -> None:
    with pytest.raises(MachineUnreachable, match=r"NUMALAB_KEY, or .* NUMALAB_KEY_FILE"):
        locate(ADDRESS, None)


def test_a_health_file_of_the_last_container_is_gone_before_the_process_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Otherwise it would be ended as one that hangs, while it reads a long journal."""
    health = tmp_path / "serves"
    (tmp_path / KEY).write_text(KEY_TEXT)
    settings = Settings(
        Topology.uniform(2, "1M"),
        state=tmp_path,
        machine=tmp_path,
        bind="tcp://*:7000",
        node="tcp://numalab-node-{nid}.numalab-nodes:7000",
        advertise=ADDRESS,
        health=str(health),
    )
    seen: list[bool] = []
    monkeypatch.setattr(os, "execv", lambda *_: seen.append(health.exists()))
    health.touch()
    run_node(settings, 1)
    health.touch()
    run_coordinator(settings)
    # Nor does it matter that there is none.
    run_coordinator(settings)
    assert seen == [False] * 3
