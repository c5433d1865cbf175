"""Which IP addresses a caller may make the server connect to (SSRF protection). Pure."""

import ipaddress
from collections.abc import Collection
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# The only IPv6 block from which unicast addresses are assigned. Outside it are local and multicast addresses, and those
# that embed an IPv4 address: IPv4-compatible, SIIT (::ffff:0:0:0/96) and NAT64 (64:ff9b::/96, 64:ff9b:1::/48).
GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
# Networks that Python's is_global accepts, at least in some version, although no public web server is there: IPv4
# addresses embedded in IPv6, old relays, and cloud-internal services.
NEVER: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "168.63.129.16/32",  # Azure's own services
        "192.0.0.0/24",  # IETF's protocols; 192.0.0.192 is Oracle's metadata
        "192.88.99.0/24",  # 6to4 relays
        "100.64.0.0/10",  # carriers' networks; 100.100.100.200 is Alibaba's metadata
        "2001::/23",  # IETF's protocols; Teredo: any IPv4 address
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: any IPv4 address
        "3fff::/20",  # documentation
    )
)
# The third 32 bits of an ISATAP address, without the bit for a globally unique IPv4 address.
ISATAP: Final = 0x0000_5EFE
UNIQUE_BIT: Final = 0x0200_0000


def may_connect(text: str, allowed: Collection[Network] = ()) -> bool:
    """Whether an address, as returned by a resolver, is public or in a network that the operator allows.

    Private, loopback, link-local, multicast, reserved and metadata addresses are not public, however they are embedded;
    neither is anything that is not an address.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        # The kernel connects to the embedded address.
        address = address.ipv4_mapped
    if any(address in network for network in allowed):
        return True
    if isinstance(address, ipaddress.IPv6Address) and not _is_global_unicast(address):
        return False
    return address.is_global and not address.is_multicast and not any(address in network for network in NEVER)


def _is_global_unicast(address: ipaddress.IPv6Address) -> bool:
    """Whether this is a host's own address on the internet, without an embedded IPv4 address."""
    third_quarter = int(address) >> 32 & 0xFFFF_FFFF & ~UNIQUE_BIT
    return address in GLOBAL_UNICAST and address.scope_id is None and third_quarter != ISATAP
