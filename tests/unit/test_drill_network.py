"""Choosing a wire, and the packet filter rules for it."""

import pytest

from drill.errors import DrillError
from drill.network import Wire, candidates, first_free, free_address, marked, rules, usable_nameservers

WIRE = Wire("drill0", "10.90.0.0/24")


def test_the_first_wire_is_taken_on_a_laptop_that_has_none():
    wire = first_free(["lo", "eth0"], ["default", "192.0.2.0/24", "127.0.0.0/8"])
    assert (wire.bridge, wire.laptop, wire.registry) == ("drill0", "10.90.0.1", "10.90.0.1:5000")


@pytest.mark.parametrize(
    ("links", "routes"),
    [
        (["drill0"], []),
        ([], ["10.90.0.0/24"]),
        ([], ["10.90.0.128/25"]),
        ([], ["10.90.0.0/16"]),
        ([], ["10.90.0.7"]),
    ],
)
def test_a_bridge_or_a_route_in_the_way_means_the_next_wire(links, routes):
    assert first_free(links, ["default", *routes]).bridge == "drill1"


def test_a_laptop_with_no_room_is_told_so():
    with pytest.raises(DrillError, match=r"10\.90\.0\.0/24 to 10\.99\.0\.0/24 are in use"):
        first_free([], ["10.0.0.0/8"])


def test_addresses_are_given_from_the_lowest_and_never_the_laptops():
    assert free_address(WIRE, []) == "10.90.0.2"
    assert free_address(WIRE, ["10.90.0.2", "10.90.0.4"]) == "10.90.0.3"


def test_the_last_addresses_are_kept_for_scans():
    everyone = [f"10.90.0.{host}" for host in range(2, 200)]
    with pytest.raises(DrillError, match="drill down NAME"):
        free_address(WIRE, everyone)


def test_packets_on_the_wire_keep_their_source_address():
    (masquerade,) = [rule for rule in rules(WIRE) if rule[0] == "nat"]
    assert " ".join(masquerade) == (
        "nat POSTROUTING -s 10.90.0.0/24 ! -o drill0 -m comment --comment memory-droplet drill0 -j MASQUERADE"
    )


def test_only_our_own_rules_are_found_in_a_listing():
    listing = (
        "-P FORWARD DROP\n"
        '-A FORWARD -i drill0 -m comment --comment "memory-droplet drill0" -j ACCEPT\n'
        '-A FORWARD -i drill1 -m comment --comment "memory-droplet drill1" -j ACCEPT\n'
        "-A FORWARD -j DOCKER-USER\n"
    )
    assert marked(listing, "memory-droplet drill0") == [
        ["FORWARD", "-i", "drill0", "-m", "comment", "--comment", "memory-droplet drill0", "-j", "ACCEPT"]
    ]


def test_a_stub_resolver_on_the_laptops_loopback_is_of_no_use_to_a_droplet():
    text = "# stub\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.53\noptions edns0\nnameserver\n"
    assert usable_nameservers(text) == ["192.0.2.53"]


def test_wires_do_not_overlap():
    assert len({wire.subnet for wire in candidates()}) == len(candidates()) == 10
