"""Packets made by hand are right, byte by byte."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drill.neighbour import SYN, SYN_ACK
from drill.packets import Segment, checksum, frame, link_local, parse
from drill.scan import Scan
from drill.scan import parse as parse_scan

MAC = bytes.fromhex("020000000001")
OTHER = bytes.fromhex("020000000002")


def by_the_rfc(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@given(st.binary(max_size=80))
def test_the_checksum_is_that_of_the_rfc(data):
    assert checksum(data) == by_the_rfc(data)


@pytest.mark.parametrize("data", [b"", b"\0\0", b"\xff\xff", b"\xff\xff\0\1", b"\xff\xfe\0\1"])
def test_the_checksum_knows_both_zeros(data):
    assert checksum(data) == by_the_rfc(data)


@given(st.integers(1, 65535), st.sampled_from(["10.90.0.2", "127.0.0.1", "172.30.0.2"]))
def test_a_packet_is_read_back_as_it_was_made(port, destination):
    segment = Segment("10.90.0.250", 40401, destination, port, SYN)
    data = frame(segment, source_mac=MAC, destination_mac=OTHER)
    assert parse(data) == segment
    assert data[:12] == OTHER + MAC
    assert by_the_rfc(data[14:34]) == 0
    pseudo = data[26:34] + struct.pack("!BBH", 0, 6, len(data) - 34)
    assert by_the_rfc(pseudo + data[34:]) == 0


@given(st.binary(max_size=60))
def test_anything_else_on_the_wire_is_passed_over(data):
    found = parse(data)
    assert found is None or data[12:14] == b"\x08\x00"


def test_an_accepting_answer_is_told_from_a_refusing_one():
    reset = Segment("10.90.0.2", 22, "10.90.0.250", 40401, 0x14)
    parsed = parse(frame(reset, source_mac=MAC, destination_mac=OTHER))
    assert parsed is not None
    assert parsed.flags != SYN_ACK


def test_the_ipv6_address_follows_from_the_hardware_address():
    assert link_local(bytes.fromhex("0a0586d87f50")) == "fe80::805:86ff:fed8:7f50"


def test_a_scan_is_read_from_the_neighbours_answer():
    answer = '{"open": [22], "open_ipv6": [], "routed": ["172.30.0.2:5432"], "loopback": [5432]}'
    assert parse_scan(answer) == Scan((22,), (), ("172.30.0.2:5432",), (5432,))
