"""TCP packets by hand, for addresses that the kernel would refuse to send to (RFC 791, RFC 793)."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

SYN = 0x02
SYN_ACK = 0x12


@dataclass(frozen=True)
class Segment:
    """What a scan needs to know of a TCP packet over IPv4."""

    source: str
    source_port: int
    destination: str
    destination_port: int
    flags: int


def frame(segment: Segment, *, source_mac: bytes, destination_mac: bytes) -> bytes:
    """An Ethernet frame with the segment, without payload and with correct checksums."""
    source = ipaddress.IPv4Address(segment.source).packed
    destination = ipaddress.IPv4Address(segment.destination).packed
    tcp = struct.pack(
        "!HHIIBBHHHBBH",
        *(segment.source_port, segment.destination_port, 0x5EED5EED, 0, 6 << 4, segment.flags),
        *(64240, 0, 0, 2, 4, 1460),
    )
    pseudo = source + destination + struct.pack("!BBH", 0, 6, len(tcp))
    tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0x4000, 64, 6, 0) + source + destination
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return destination_mac + source_mac + b"\x08\x00" + ip + tcp


def parse(data: bytes) -> Segment | None:
    """The TCP segment in an Ethernet frame, or None if it holds anything else."""
    if len(data) < 54 or data[12:14] != b"\x08\x00" or data[14] >> 4 != 4 or data[23] != 6:
        return None
    start = 14 + (data[14] & 0x0F) * 4
    if len(data) < start + 14:
        return None
    source_port, destination_port = struct.unpack("!HH", data[start : start + 4])
    return Segment(
        source=str(ipaddress.IPv4Address(data[26:30])),
        source_port=source_port,
        destination=str(ipaddress.IPv4Address(data[30:34])),
        destination_port=destination_port,
        flags=data[start + 13],
    )


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071): the ones' complement of the ones' complement sum of 16-bit words."""
    if len(data) % 2:
        data += b"\0"
    # Adding 16-bit words with the carry fed back is arithmetic modulo 0xFFFF, and 2**16 is 1 there.
    total = int.from_bytes(data) % 0xFFFF
    return ~(total or 0xFFFF) & 0xFFFF if any(data) else 0xFFFF


def link_local(mac: bytes) -> str:
    """The IPv6 address that Linux gives an interface by itself (modified EUI-64, RFC 4291 appendix A)."""
    identifier = bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + identifier))
