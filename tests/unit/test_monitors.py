# SPDX-License-Identifier: Apache-2.0
"""Monitors in all their forms, each address once."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_addons_rbd.monitors import names_in, parse_monitors, resolve_monitors


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ("10.0.0.1", ("v2:10.0.0.1:3300", "v1:10.0.0.1:6789")),
        ("10.0.0.1:6789", ("v1:10.0.0.1:6789",)),
        ("10.0.0.1:3300/0", ("v2:10.0.0.1:3300",)),
        ("any:10.0.0.1:7000/5", ("v2:10.0.0.1:7000", "v1:10.0.0.1:7000")),
        ("v1:10.0.0.1", ("v1:10.0.0.1:6789",)),
        ("V2:10.0.0.1:0", ("v2:10.0.0.1:3300",)),
        (
            "[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0]",
            ("[v2:10.0.0.1:3300,v1:10.0.0.1:6789]",),
        ),
        ("[v1:10.0.0.1:6789 ; v2:10.0.0.1]", ("[v1:10.0.0.1:6789,v2:10.0.0.1:3300]",)),
        ("[10.0.0.1:7000]", ("v2:10.0.0.1:7000", "v1:10.0.0.1:7000")),
        ("10.0.0.1:6789;10.0.0.2:6789 10.0.0.3:6789,", tuple(
            f"v1:10.0.0.{each}:6789" for each in (1, 2, 3)
        )),
        (
            "[v2:10.0.0.1:3300,v1:10.0.0.1:6789][v2:10.0.0.2:3300]",
            ("[v2:10.0.0.1:3300,v1:10.0.0.1:6789]", "v2:10.0.0.2:3300"),
        ),
        ("[::1]:6789", ("v1:[::1]:6789",)),
        ("::1", ("v2:[::1]:3300", "v1:[::1]:6789")),
        ("[::1]", ("v2:[::1]:3300", "v1:[::1]:6789")),
        ("[v2:[0::1]:3300/0,v1:[::1]:6789/0]", ("[v2:[::1]:3300,v1:[::1]:6789]",)),
        # librados reads no dotted quad within IPv6
        ("[::ffff:10.0.0.1]:6789", ("v1:10.0.0.1:6789",)),
        ("Mon-a.rook-ceph.svc:6789", ("v1:mon-a.rook-ceph.svc:6789",)),
        ("v2:mon_a.", ("v2:mon_a.:3300",)),
        ("[v2:mon:3300,v1:mon:6789]", ("[v2:mon:3300,v1:mon:6789]",)),
        (" , ;", ()),
        ("[10.0.0.1]:7000", ("v2:10.0.0.1:7000", "v1:10.0.0.1:7000")),
        ("v2:[10.0.0.1]:7000/0", ("v2:10.0.0.1:7000",)),
        ("[mon-a]:6789,[mon-b.x]:3300", ("v1:mon-a:6789", "v2:mon-b.x:3300")),
        (
            "[v2:[10.0.0.1]:3300,v1:[10.0.0.1]:6789]",
            ("[v2:10.0.0.1:3300,v1:10.0.0.1:6789]",),
        ),
        ("[10.0.0.1]", ("v2:10.0.0.1:3300", "v1:10.0.0.1:6789")),
        ("a=10.0.0.1:6789,b=10.0.0.2:6789", ("v1:10.0.0.1:6789", "v1:10.0.0.2:6789")),
        ("a=[v2:10.0.0.1:3300,v1:10.0.0.1:6789],b=[::1]:6789,c=[10.0.0.3]:6789", (
            "[v2:10.0.0.1:3300,v1:10.0.0.1:6789]", "v1:[::1]:6789", "v1:10.0.0.3:6789",
        )),
        ("mon-a=v2:mon-a.x:3300", ("v2:mon-a.x:3300",)),
        ('"10.0.0.1:6789"', ("v1:10.0.0.1:6789",)),
        ("'10.0.0.1:6789','[::1]:6789'", ("v1:10.0.0.1:6789", "v1:[::1]:6789")),
        ('"10.0.0.1:6789,10.0.0.2:6789"', ("v1:10.0.0.1:6789", "v1:10.0.0.2:6789")),
        ('a="10.0.0.1:6789" "b=10.0.0.2:6789"', ("v1:10.0.0.1:6789", "v1:10.0.0.2:6789")),
        (
            '"[v2:10.0.0.1:3300,v1:10.0.0.1:6789]"',
            ("[v2:10.0.0.1:3300,v1:10.0.0.1:6789]",),
        ),
        ("10.0.0.1:6789/", ("v1:10.0.0.1:6789",)),
        ("[v2:10.0.0.1:3300/,v1:10.0.0.1:6789/]/", ("[v2:10.0.0.1:3300,v1:10.0.0.1:6789]",)),
        ("[v2:10.0.0.1:3300,v1:10.0.0.1:6789]/0", ("[v2:10.0.0.1:3300,v1:10.0.0.1:6789]",)),
        ("mon-a/", ("v2:mon-a:3300", "v1:mon-a:6789")),
    ],
)  # fmt: skip
def test_forms(given: str, texts: tuple[str, ...]) -> None:
    """Each form that librados takes, and those that it ought to."""
    found = parse_monitors([given])
    assert found.texts == texts
    assert not found.faults


@pytest.mark.parametrize(
    "given",
    [
        ["v1:10.0.0.1:6789", "[v2:10.0.0.1:3300,v1:10.0.0.1:6789]"],
        ["10.0.0.1", "[v2:10.0.0.1:3300,v1:10.0.0.1:6789]"],
        ["[v2:10.0.0.1:3300,v1:10.0.0.1:6789]"] * 2,
        ["[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0],[v2:10.0.0.1:3300,v1:10.0.0.1:6789/7]"],
        ["[v2:10.0.0.1:3300,v1:10.0.0.1:6789,v2:10.0.0.1]"],
        ["[v2:10.0.0.1:3300,v1:10.0.0.1:6789]", "[::ffff:10.0.0.1]"],
    ],
)
def test_each_address_stands_once(given: list[str]) -> None:
    """librados aborts when one stands in two vectors, or before the vector that has it."""
    assert parse_monitors(given).texts == ("[v2:10.0.0.1:3300,v1:10.0.0.1:6789]",)


def test_vectors_that_share_an_address() -> None:
    """What the second one has alone is kept."""
    found = parse_monitors(["[v2:10.0.0.1:3,v1:10.0.0.1:4]", "[v2:10.0.0.1:5,v1:10.0.0.1:4]"])
    assert found.texts == ("[v2:10.0.0.1:3,v1:10.0.0.1:4]", "v2:10.0.0.1:5")


@pytest.mark.parametrize(
    "bad",
    [
        "10.0.0.1:99999",
        "10.0.0.1:x",
        "10.0.0.1:6789/x",
        "10.0.0.1:6789/4294967296",
        "256.0.0.1",
        "127.1",
        "0.0.0.0:6789",
        "[::]:6789",
        "v3:10.0.0.1",
        "http://10.0.0.1",
        "-",
        "[fe80::1%lo]:6789",
        "mon-.a",
        "é",
        "a" * 64,
        "x" * 20_000,
        "v2:[v2:10.0.0.9:x]",
        "mon[v2:10.0.0.9:x]",
        "[10.0.0.9]:x",
        "[10.0.0.9]:99999",
        "[mon-a]:",
        "v2:'10.0.0.9':3300",
        "mon[10.0.0.9]:6789",
        "=10.0.0.9",
        "a=",
        "10.0.0.9:6789//",
        "mon ??",
    ],
)
def test_what_cannot_be_read_is_left_out_and_named(bad: str) -> None:
    """And costs nothing that stands beside it, in the list or in the same text."""
    alone = parse_monitors([bad])
    assert not alone.texts
    assert alone.faults
    good = "[v2:10.0.0.1:3300,v1:10.0.0.1:6789]"
    assert parse_monitors([bad, good]).texts == (good,)
    if len(bad) < 100:
        for text in (f"{bad},{good}", f"{good},{bad}", f"{good} {bad} {good}"):
            found = parse_monitors([text])
            assert found.texts == (good,)
            assert found.faults == alone.faults


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("mon host = v1:10.0.0.1", ("v1:10.0.0.1:6789",)),
        ("mon host=v1:10.0.0.1", ("v1:10.0.0.1:6789",)),
        ("mon_host = v1:10.0.0.1 # the first.", ("v1:10.0.0.1:6789",)),
        ("x y z??", ()),
        (
            "0: [v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0] mon.a",
            ("[v2:10.0.0.1:3300,v1:10.0.0.1:6789]",),
        ),
        ("?? mon-a:6789 v2:mon-b mon-c.rook-ceph.svc", (
            "v1:mon-a:6789", "v2:mon-b:3300",
            "v2:mon-c.rook-ceph.svc:3300", "v1:mon-c.rook-ceph.svc:6789",
        )),
        ("[v2:mon-a:3300, junk, ??]", ("v2:mon-a:3300",)),
    ],
)  # fmt: skip
def test_stray_words_are_no_names(text: str, texts: tuple[str, ...]) -> None:
    """In a text that holds more than monitors, a name has a port, a protocol, or a domain."""
    found = parse_monitors([text])
    assert found.texts == texts
    assert found.faults
    # another text is none the worse for it
    assert "v2:mon:3300" in parse_monitors([text, "mon"]).texts


@pytest.mark.parametrize(
    "spoilt",
    [
        "{0},{1}],{2}",
        "{0},[{1},{2}",
        "[{0},{1},{2}",
        "{0},{1},{2}]",
        "{0},],{1},[,{2}",
        "{0}{1},[v2:10.0.0.9:3300,{2}",
    ],
)
def test_a_bracket_too_few_or_too_many_loses_no_vector(spoilt: str) -> None:
    """The good ones are used, and the fault is told."""
    vectors = [f"[v2:10.0.0.{each}:3300,v1:10.0.0.{each}:6789]" for each in (1, 2, 3)]
    found = parse_monitors([spoilt.format(*vectors)])
    assert set(vectors) <= set(found.texts)
    assert found.faults


def test_a_vector_cut_at_its_commas() -> None:
    """As a list of texts it is still read."""
    found = parse_monitors(["[v2:10.0.0.1:3300", "v1:10.0.0.1:6789]"])
    assert found.texts == ("v2:10.0.0.1:3300", "v1:10.0.0.1:6789")
    assert len(found.faults) == 2


def test_twenty_thousand_monitors() -> None:
    """They are cut short, named, and take no time."""
    began = time.monotonic()
    hosts = [f"10.{each // 60_000}.{each // 250 % 250}.{each % 250 + 1}" for each in range(20_000)]
    found = parse_monitors([f"v2:{each}:3300" for each in hosts])
    assert found.texts == tuple(f"v2:{each}:3300" for each in hosts[:64])
    assert found.faults == ("only the first 64 addresses are used",)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "text",
    ["[", "]", "a[", "[1:", "[:::", "v2:", "[v2:", ":", "1:", "1::", ".", "a.", "a/", "/", "[::1]"],
)
@pytest.mark.parametrize("end", ["", "/x", "]", ":", "-"])
@pytest.mark.parametrize("length", [16_000, 290])
def test_time_grows_with_the_text_alone(text: str, end: str, length: int) -> None:
    """Whatever is repeated, and whatever spoils it at its end."""
    began = time.thread_time()
    parse_monitors([(text * length)[:length] + end] * 4)
    assert time.thread_time() - began < 1


def test_an_address_is_no_longer_than_a_name_may_be() -> None:
    """The longest name is read; what is longer is none."""
    longest = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
    assert len(longest) == 253
    assert parse_monitors([f"any:{longest}:65535/4294967295"]).texts
    assert not parse_monitors([f"{longest}e"]).texts
    found = parse_monitors(["v2:10.0.0.1:" + "0" * 400 + "1", "v1:10.0.0.2"])
    assert (found.texts, len(found.faults)) == (("v1:10.0.0.2:6789",), 1)


def test_names_are_replaced_by_their_addresses() -> None:
    """Two names of one address count once; a vector of names is one for each host."""
    found = parse_monitors(["a", "[v2:b:3300,v1:b:6789]", "v2:10.0.0.1:3300", "gone:6789"])
    assert names_in(found.texts) == ("b", "a", "gone")
    addresses = {"a": ["10.0.0.1", "10.0.0.2"], "b": ["::1", "10.0.0.2", "fe80::1%eth0"]}
    assert resolve_monitors(found.texts, lambda name: addresses.get(name, ())) == (
        "[v2:[::1]:3300,v1:[::1]:6789]",
        "[v2:10.0.0.2:3300,v1:10.0.0.2:6789]",
        "v2:10.0.0.1:3300",
        "v1:10.0.0.1:6789",
    )


_pieces = st.sampled_from(
    ["[", "]", ",", " ", ";", "v1:", "v2:", "any:", "127.0.0.1", "[::1]", ":1", ":6789", "/0", "a"]
)


@given(st.lists(st.lists(_pieces, max_size=12).map("".join), max_size=4))
def test_what_comes_out_is_read_as_the_same(texts: list[str]) -> None:
    """No address twice, no fault, and nothing more to change."""
    found = parse_monitors(texts)
    again = parse_monitors(found.texts)
    assert again.texts == found.texts
    assert not again.faults
    members = [each for text in found.texts for each in text.strip("[").split(",")]
    assert len({each.removesuffix("]") for each in members}) == len(members)
