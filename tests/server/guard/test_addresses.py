import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osamd.server.guard.addresses import may_connect

PUBLIC = ["93.184.216.34", "8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001:81b::200e", "::ffff:8.8.8.8"]
NOT_PUBLIC = {
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fd00::1", "fc00::1", "fec0::1"],
    "link-local": ["169.254.0.1", "fe80::1", "fe80::1%eth0"],
    "metadata": ["169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"],
    "reserved": ["0.0.0.0", "0.1.2.3", "240.0.0.1", "255.255.255.255", "::"],  # noqa: S104
    "tests and examples": ["192.0.2.1", "198.18.0.1", "203.0.113.7"],
    "documentation": ["2001:db8::1", "3fff::1"],
    "carriers": ["100.64.0.1"],
    "mapped": ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1"],
    "NAT64": ["64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "64:ff9b:2::a00:1", "64:ff9b:ffff::1"],
    "SIIT": ["::ffff:0:7f00:1", "::ffff:0:10.0.0.1", "::ffff:0:8.8.8.8"],
    "ISATAP": ["2a00:1450::5efe:a00:1", "2a00:1450::200:5efe:10.0.0.1"],
    "not handed out": ["4000::1", "1fff::1", "::1:0:0:1", "8000::1", "e000::1", "200::1", "5f00::1", "100::1"],
    "with a zone": ["2606:4700:4700::1111%eth0"],
    "6to4": ["2002:7f00:1::", "2002:808:808::1", "192.88.99.1"],
    "Teredo": ["2001::1", "2001:0:53aa:64c:0:fffe:8080:1"],
    "no address": ["", "localhost", "127.1", "0x7f000001", "2130706433", "1.2.3.4.5", "::g"],
}


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_reached(address: str) -> None:
    """Where images on the internet are."""
    assert may_connect(address)


@pytest.mark.parametrize(
    ("kind", "address"), [(kind, address) for kind, addresses in NOT_PUBLIC.items() for address in addresses]
)
def test_private_addresses_are_refused(kind: str, address: str) -> None:
    """Loopback, private networks and cloud metadata services, in every notation."""
    del kind
    assert not may_connect(address)


@given(st.ip_addresses(v=4))
def test_a_mapped_address_is_what_it_maps(address: ipaddress.IPv4Address) -> None:
    """The kernel connects to the same host, so the answer is the same; other dresses are never let in."""
    plain = may_connect(str(address))

    assert plain == may_connect(f"::ffff:{address}")
    assert not may_connect(f"64:ff9b::{address}")
    assert not may_connect(f"::ffff:0:{address}")
    assert not may_connect(f"2002:{int(address) >> 16:x}:{int(address) & 0xFFFF:x}::1")
    assert not may_connect(f"2001:0:53aa:64c:0:fffe:{int(address) >> 16 ^ 0xFFFF:x}:{int(address) & 0xFFFF ^ 0xFFFF:x}")
    assert not may_connect(f"::{address}")
    assert not plain or (address.is_global and not address.is_multicast)


@given(st.ip_addresses(v=6))
def test_only_global_unicast_is_reached(address: ipaddress.IPv6Address) -> None:
    """Whatever a name server answers, nothing outside 2000::/3 is asked."""
    is_unicast = address in ipaddress.ip_network("2000::/3")

    assert is_unicast or address.ipv4_mapped is not None or not may_connect(str(address))


def test_an_operator_may_allow_a_network() -> None:
    """The operator's object store may have a private address; no other private address is allowed with it."""
    allowed = (ipaddress.ip_network("10.1.0.0/16"),)

    assert may_connect("10.1.2.3", allowed)
    assert may_connect("::ffff:10.1.2.3", allowed)
    assert not may_connect("10.2.0.1", allowed)
    assert not may_connect("::1", allowed)
