"""Addresses and networks."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senderscore_policy.policy.clients import ClientDirectory, NetworkTable, Override, parse_address

ADDRESSES = st.ip_addresses()


@pytest.mark.parametrize(
    "text", ["unknown", "", "192.0.2", "192.0.2.75 ", "192.0.2.075", "fe80::1%eth0", "a" * 100, "３"]
)
def test_no_address(text: str) -> None:
    """A text that is not an address gives None and does not raise."""
    assert parse_address(text) is None


@given(st.text())
def test_any_text(text: str) -> None:
    """No text raises."""
    parse_address(text)


@given(ADDRESSES)
def test_round_trip(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """An address reads as itself, v4-mapped as IPv4."""
    mapped = address.ipv4_mapped if address.version == 6 else None
    assert parse_address(str(address)) == (mapped or address)


@given(
    st.lists(st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), max_size=20),
    st.lists(st.tuples(st.ip_addresses(v=6), st.integers(0, 128)), max_size=20),
    st.lists(ADDRESSES, min_size=1),
)
def test_longest_prefix(
    v4: list[tuple[ipaddress.IPv4Address, int]],
    v6: list[tuple[ipaddress.IPv6Address, int]],
    addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address],
) -> None:
    """The longest network that holds an address wins, as a search through all of them finds it."""
    networks = [ipaddress.ip_network(pair, strict=False) for pair in [*v4, *v6]]
    table = NetworkTable((network, network) for network in networks)
    for address in addresses + [network[-1] for network in networks]:
        holding = [n for n in networks if n.version == address.version and address in n]
        assert table.match(address) == max(holding, key=lambda network: network.prefixlen, default=None)


def key_of(directory: ClientDirectory, address: str) -> str:
    """The key that an address is counted under."""
    return directory.client(ipaddress.ip_address(address)).key


def test_an_ipv6_network_with_a_limit_of_its_own_is_counted_on_its_own() -> None:
    """A host with an override or an exemption does not use up its neighbours' limit, and they do not use up its own."""
    own = Override((ipaddress.ip_network("2001:db8::25/128"),), limit=5000)
    wide = Override((ipaddress.ip_network("2001:db8:1::/48"),), limit=100)
    directory = ClientDirectory([ipaddress.ip_network("2001:db8::30/127")], [own, wide], 64)
    assert key_of(directory, "2001:db8::25") == "2001:db8::25/128"
    assert key_of(directory, "2001:db8::30") == key_of(directory, "2001:db8::31") == "2001:db8::30/127"
    assert key_of(directory, "2001:db8::99") == "2001:db8::/64"
    assert key_of(directory, "2001:db8:1:2::3") == "2001:db8:1:2::/64"
