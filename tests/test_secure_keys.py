"""The files of keys: made once, private, whole; and what is said about those that are not."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import zmq
from zmq.auth import load_certificate

from protocol.core import ConfigurationError
from protocol.live.guard import may_claim
from protocol.live.keys import Keys, open_client_keys, open_keys
from protocol.live.process import Configuration


def keys_of(tmp_path: Path, name: str = "node0") -> Keys:
    """A secret in a place of its own, and the shared directory."""
    return open_keys(name, tmp_path / name / "secret", tmp_path / "public")


def test_a_key_is_made_once_and_found_again(tmp_path: Path) -> None:
    first, again = keys_of(tmp_path), keys_of(tmp_path)
    assert (first.public, first.secret) == (again.public, again.secret)
    assert zmq.curve_public(first.secret) == first.public
    assert (tmp_path / "node0/secret").stat().st_mode & 0o777 == 0o600
    assert first.of("node0") == first.public
    assert first.owner(first.public.decode()) == "node0"


def test_the_files_are_certificates_of_pyzmq(tmp_path: Path) -> None:
    keys = keys_of(tmp_path)
    assert load_certificate(tmp_path / "node0/secret") == (keys.public, keys.secret)
    assert load_certificate(tmp_path / "public/node0.key") == (keys.public, None)
    assert keys.secret.decode() not in (tmp_path / "public/node0.key").read_text()
    assert [path.name for path in (tmp_path / "public").iterdir()] == ["node0.key"]
    assert [path.name for path in (tmp_path / "node0").iterdir()] == ["secret"]


def test_a_public_key_can_be_read_whatever_the_mask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        keys_of(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / "public/node0.key").stat().st_mode & 0o777 == 0o644


def test_two_who_start_at_once_have_one_key(tmp_path: Path) -> None:
    found: list[bytes] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        found.append(keys_of(tmp_path).public)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(frozenset(found)) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_secret_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    keys_of(tmp_path)
    (tmp_path / "node0/secret").chmod(mode)
    with pytest.raises(ConfigurationError, match="others than its owner.*chmod 600"):
        keys_of(tmp_path)


@pytest.mark.parametrize("part", ["empty", "cut", "foreign", "noise"])
def test_a_damaged_secret_is_refused_and_stays_as_it_is(tmp_path: Path, part: str) -> None:
    keys_of(tmp_path)
    other = keys_of(tmp_path, "node1")
    path = tmp_path / "node0/secret"
    whole = path.read_bytes()
    secret = load_certificate(path)[1]
    assert secret is not None
    damaged = {
        "empty": b"",
        "cut": whole[: whole.index(secret) + 20],
        "foreign": whole.replace(secret, other.secret),
        "noise": bytes(range(256)),
    }[part]
    path.write_bytes(damaged)
    with pytest.raises(ConfigurationError, match=r"secret is damaged: .* remove it"):
        keys_of(tmp_path)
    assert path.read_bytes() == damaged


def test_a_secret_that_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match="is no file"):
        open_keys("node0", tmp_path / "secret", tmp_path / "public")


def test_a_secret_may_be_a_link_as_orchestrators_mount_them(tmp_path: Path) -> None:
    keys = keys_of(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "node0/secret")
    assert open_keys("node0", tmp_path / "link", tmp_path / "public").secret == keys.secret
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    with pytest.raises(ConfigurationError, match="nowhere cannot be read"):
        open_keys("node0", tmp_path / "nowhere", tmp_path / "public")


def test_who_is_new_in_the_directory_is_known_and_who_is_removed_is_not(tmp_path: Path) -> None:
    zero = keys_of(tmp_path)
    one = keys_of(tmp_path, "node1")
    assert zero.of("node1") is None
    assert zero.refresh() and not zero.refresh()
    assert zero.of("node1") == one.public
    (tmp_path / "public/node1.key").unlink()
    assert zero.refresh()
    assert zero.of("node1") is None and zero.owner(one.public.decode()) is None


def test_a_new_secret_replaces_the_public_key(tmp_path: Path) -> None:
    one = keys_of(tmp_path, "node1")
    old = keys_of(tmp_path)
    (tmp_path / "node0/secret").unlink()
    new = keys_of(tmp_path)
    assert one.refresh()
    assert one.of("node0") == new.public != old.public
    assert one.owner(old.public.decode()) is None


def test_files_that_are_no_keys_are_nobody(tmp_path: Path) -> None:
    keys = keys_of(tmp_path)
    for name in ("node1.key", "README", ".node2.key.abcd", "node3.key.bak"):
        (tmp_path / "public" / name).write_bytes(b'public-key = "too short"\n\xff')
    (tmp_path / "public/node4.key").mkdir()
    assert keys.refresh()
    assert [keys.of(f"node{nid}") is None for nid in range(5)] == [False, *[True] * 4]


def test_a_directory_that_may_only_be_read_is_enough_with_the_right_key(tmp_path: Path) -> None:
    first = keys_of(tmp_path)
    before = (tmp_path / "public/node0.key").stat()
    keys_of(tmp_path)
    after = (tmp_path / "public/node0.key").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert first.of("node0")


def test_nobody_prints_a_secret(tmp_path: Path) -> None:
    keys = keys_of(tmp_path)
    assert keys.secret.decode() not in repr(keys) + str(keys)


def test_a_client_is_named_after_its_file(tmp_path: Path) -> None:
    keys = open_client_keys(tmp_path / "ann.key_secret", tmp_path / "public")
    assert keys.name == "ann" and keys.of("ann") == keys.public
    with pytest.raises(ConfigurationError, match="no name for a key"):
        open_client_keys(tmp_path / ".hidden", tmp_path / "public")


def test_a_configuration_has_both_paths_or_none(tmp_path: Path) -> None:
    def configuration(secret_key: str = "", public_keys: str = "") -> Configuration:
        return Configuration(
            bind="",
            peers={},
            key="",
            nids=(0,),
            secret_key=secret_key,
            public_keys=public_keys,
        )

    assert configuration().keys("node0") is None
    for one in (configuration("x"), configuration("", "x")):
        with pytest.raises(ConfigurationError, match="give both, or none"):
            one.keys("node0")
    assert configuration(str(tmp_path / "s"), str(tmp_path / "public")).keys("node0")


@pytest.mark.parametrize(
    ("owner", "name", "may"),
    [
        ("node0", "node0", True),
        ("node0", "node1", False),
        ("node0", "coordinator", False),
        ("node0", "client-1-ab", False),
        ("coordinator", "coordinator", True),
        ("coordinator", "node0", False),
        ("client", "client-1-ab", True),
        ("ann", "bob", True),
        ("ann", "node7", False),
        ("ann", "coordinator", False),
    ],
)
def test_who_may_say_that_it_is_whom(owner: str, name: str, may: bool) -> None:
    assert may_claim(owner, name) is may
