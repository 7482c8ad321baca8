"""Node sets are read and printed as numactl does, and laid onto each other as the kernel does."""

from __future__ import annotations

from itertools import combinations

import pytest

from protocol.nodemask import NodeListError, format_nodes, node_remap, parse_list, parse_nodes

FOUR = (0, 1, 2, 3)


def subsets(width: int) -> list[tuple[int, ...]]:
    return [c for size in range(width + 1) for c in combinations(range(width), size)]


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("0", (0,)),
        ("0-2", (0, 1, 2)),
        ("3,0-1", (0, 1, 3)),
        ("1,1,1-2", (1, 2)),
        (" 0 , 2 ", (0, 2)),
        ("all", FOUR),
        ("!1", (0, 2, 3)),
        ("!0-2", (3,)),
        ("!all", ()),
    ],
)
def test_a_node_list_is_read_as_numactl_writes_it(text: str, nodes: tuple[int, ...]) -> None:
    assert parse_nodes(text, FOUR) == nodes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("!", "empty"),
        ("+0", "without '+'"),
        ("0,,1", "neither a number nor a range"),
        ("0-", "'0-' in the list '0-'"),
        ("-1", "neither a number nor a range"),
        ("one", "'one'"),
        ("1.5", "'1.5'"),
        ("0x1", "'0x1'"),
        ("3-1", "write 1-3"),
        ("0-999999999", "too long"),
        ("7", "There is no node 7: this machine has nodes 0-3."),
        ("0-4", "There is no node 4"),
        ("!7", "There is no node 7"),
    ],
)
def test_a_wrong_node_list_is_answered_with_one_sentence(text: str, says: str) -> None:
    with pytest.raises(NodeListError) as raised:
        parse_nodes(text, FOUR)
    sentence = str(raised.value)
    assert says in sentence
    assert sentence.endswith(".") and "\n" not in sentence


def test_all_and_not_are_about_the_nodes_that_exist() -> None:
    assert parse_nodes("all", (5, 2, 0)) == (0, 2, 5)
    assert parse_nodes("!2", (0, 2, 5)) == (0, 5)
    with pytest.raises(NodeListError, match=r"no node 1: this machine has nodes 0,2,5\."):
        parse_nodes("0-2", (0, 2, 5))


def test_every_set_of_eight_nodes_survives_being_printed_and_read() -> None:
    for nodes in subsets(8)[1:]:
        assert parse_list(format_nodes(nodes)) == nodes


def test_a_node_list_is_printed_as_sysfs_prints_it() -> None:
    assert format_nodes(()) == ""
    assert format_nodes((8, 3, 2, 1, 0)) == "0-3,8"
    assert format_nodes((0, 1)) == "0-1"


def remap_bit_by_bit(bit: int, old: int, new: int, width: int) -> int:
    """bitmap_bitremap() on integers: count the set bits below, then walk to that set bit."""
    weight = bin(new).count("1")
    if not old >> bit & 1 or weight == 0:
        return bit
    position = sum(old >> below & 1 for below in range(bit)) % weight
    for candidate in range(width):
        if new >> candidate & 1:
            if position == 0:
                return candidate
            position -= 1
    raise AssertionError("a set bit was counted and is not there")


def test_remap_equals_the_bitwise_rule_for_all_masks_of_five_nodes() -> None:
    def mask(nodes: tuple[int, ...]) -> int:
        return sum(1 << nid for nid in nodes)

    for old in subsets(5):
        for new in subsets(5):
            for nid in range(5):
                expected = remap_bit_by_bit(nid, mask(old), mask(new), 5)
                assert node_remap(nid, old, new) == expected, (nid, old, new)


def test_sets_of_equal_size_are_laid_onto_each_other_one_to_one() -> None:
    assert [node_remap(n, (0, 1, 2), (1, 2, 3)) for n in (0, 1, 2)] == [1, 2, 3]
    assert [node_remap(n, (1, 0), (0, 1)) for n in (0, 1)] == [0, 1]  # a swap cannot be said


def test_the_order_in_which_a_set_is_written_does_not_matter() -> None:
    assert node_remap(4, (4, 0), (3, 1)) == node_remap(4, (0, 4), (1, 3)) == 3
