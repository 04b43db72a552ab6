"""Lists of networks in files of their own."""

from pathlib import Path

import pytest

from senderscore_policy.config.load import parse
from senderscore_policy.errors import ConfigError


def exempt(file: Path, content: str | bytes) -> list[str]:
    """The exempt networks, read from a file of this content; loopback aside."""
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    config = parse(f'[exempt]\nnetworks_file = "{file}"', "policy.toml")
    networks = [str(network) for network in config.exempt.networks]
    assert networks[:2] == ["127.0.0.0/8", "::1/128"]
    return networks[2:]


def problems(text: str) -> list[str]:
    """What is wrong with the configuration."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "policy.toml")
    return caught.value.problems


@pytest.mark.parametrize(
    ("content", "networks"),
    [
        ("192.0.2.0/24\n2001:db8::/32\n198.51.100.7", ["192.0.2.0/24", "2001:db8::/32", "198.51.100.7/32"]),
        ("# own\n\n192.0.2.0/24 # office\n  192.0.2.9\n", ["192.0.2.0/24", "192.0.2.9/32"]),
        ("192.0.2.0/24\tOK\n192.0.2.9 421 4.7.1 later\n", ["192.0.2.0/24", "192.0.2.9/32"]),
        ("192.0.2.0/24 REJECT a text\n    that goes on here\n192.0.2.9 OK", ["192.0.2.0/24", "192.0.2.9/32"]),
        ("192.0.2.1 permit\n192.0.2.1 permit\n", ["192.0.2.1/32"]),
        (b"\xef\xbb\xbf192.0.2.1\r\n# caf\xe9\r\n192.0.2.2\r\n", ["192.0.2.1/32", "192.0.2.2/32"]),
        ("", []),
    ],
)
def test_one_network_a_line_and_the_rest_of_the_line_is_ignored(
    tmp_path: Path, content: str | bytes, networks: list[str]
) -> None:
    """A plain list and a cidr table of Postfix work without a change; the file adds to `networks`."""
    assert exempt(tmp_path / "list", content) == networks


def test_mistakes_are_shown_with_the_file_and_the_line(tmp_path: Path) -> None:
    """The key of policy.toml comes first, then the line of the list, for each mistake."""
    file = tmp_path / "list"
    file.write_text(
        "192.0.2.300\n192.0.2.0/24\n192.0.2.7/24 OK\nif 192.0.2.0/24\n!192.0.2.1 OK\nendif\n  192.0.2.500\n"
    )
    found = problems(f'[exempt]\nnetworks_file = "{file}"')
    start = f"policy.toml:2: exempt.networks_file: {file}:"
    assert all(problem.startswith(start) for problem in found)
    numbers, words = zip(*(problem.removeprefix(start).split(": ", 1) for problem in found), strict=True)
    assert numbers == ("1", "3", "4", "5", "6", "7")
    assert words[0].startswith("must be a network such as")
    assert 'write "192.0.2.0/24"' in words[1]
    assert all("conditions and negations of a cidr table are not supported" in word for word in words[2:5])


def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    """A missing file, a directory and a relative path are refused with the key."""
    for path, words in ((tmp_path / "no", "No such file or directory"), (tmp_path, "not a regular file")):
        [problem] = problems(f'[exempt]\nnetworks_file = "{path}"')
        assert problem == f"policy.toml:2: exempt.networks_file: {path}: {words}"
    assert "must be an absolute path" in problems('[exempt]\nnetworks_file = "list"')[0]


def test_a_network_in_two_overrides_is_a_mistake(tmp_path: Path) -> None:
    """Which of the two decides would be a matter of luck; within one override a network may occur twice."""
    file = tmp_path / "list"
    file.write_text("192.0.2.0/24\n")
    own = f'[[override]]\nnetworks = ["192.0.2.0/24"]\nnetworks_file = "{file}"\nscore = 1\n'
    assert len(parse(own, "policy.toml").overrides[0].networks) == 2
    other = f'[[override]]\nnetworks_file = "{file}"\nscore = 2\n'
    assert problems(own + other) == ["policy.toml:6: override[2].networks_file: 192.0.2.0/24 is already in override[1]"]
