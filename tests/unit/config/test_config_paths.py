"""Where the daemon and its commands look for things."""

from pathlib import Path

import pytest

from senderscore_policy.config import paths
from senderscore_policy.config.model import Config, Listen
from senderscore_policy.config.paths import config_file, control_path, control_paths, state_directory
from senderscore_policy.errors import ConfigError

SYSTEMD = {"RUNTIME_DIRECTORY": "/run/ssp:/run/other", "STATE_DIRECTORY": "/var/lib/ssp:/var/lib/other"}
CONFIGURED = Config(listen=Listen(control="/run/x.sock"), state_directory="/srv/state")


def test_the_state_directory_is_systemds() -> None:
    """The first of $STATE_DIRECTORY, unless the configuration names one."""
    assert state_directory(Config(), SYSTEMD) == Path("/var/lib/ssp")
    assert state_directory(CONFIGURED, SYSTEMD) == Path("/srv/state")


def test_the_state_directory_without_systemd_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who tries the daemon gets a directory in the home directory."""
    monkeypatch.setenv("HOME", "/home/joe")
    assert state_directory(Config(), {}) == Path("/home/joe/.local/state/senderscore-policy")


def test_no_home_is_an_error_that_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home directory has to say where the state is kept."""

    def expanduser(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", expanduser)
    with pytest.raises(ConfigError, match=r"^state\.directory: .* must be set"):
        state_directory(Config(), {})


@pytest.mark.parametrize(
    ("environment", "path"),
    [
        (SYSTEMD | {"XDG_RUNTIME_DIR": "/run/user/7"}, "/run/ssp/control.sock"),
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, "/run/user/7/senderscore-policy/control.sock"),
        ({"STATE_DIRECTORY": "/var/lib/ssp"}, "/var/lib/ssp/control.sock"),
    ],
)
def test_the_daemon_puts_its_control_socket_where_it_may(environment: dict[str, str], path: str) -> None:
    """systemd's directory, else the user's, else the state directory; commands look there too, after the system's."""
    assert control_path(Config(), environment) == Path(path)
    assert control_paths(Config(), environment)[:2] == [paths.SYSTEM_CONTROL, Path(path)]


def test_a_configured_control_socket_is_the_only_one() -> None:
    """No other daemon is asked by mistake."""
    assert control_path(CONFIGURED, SYSTEMD) == Path("/run/x.sock")
    assert control_paths(CONFIGURED, SYSTEMD) == [Path("/run/x.sock")]


def test_no_place_is_tried_twice() -> None:
    """Under systemd the daemon's own place is the system's."""
    environment = {"RUNTIME_DIRECTORY": "/run/senderscore-policy", "STATE_DIRECTORY": "/var/lib/x"}
    assert control_paths(Config(), environment) == [paths.SYSTEM_CONTROL, Path("/var/lib/x/control.sock")]


def test_the_system_file_is_read_only_if_it_exists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without -c and without a file in /etc the defaults hold."""
    file = tmp_path / "etc" / "policy.toml"
    monkeypatch.setattr(paths, "CONFIG_FILE", file)
    assert config_file(None) is None
    assert config_file(tmp_path) == tmp_path
    file.parent.mkdir()
    file.write_text("")
    assert config_file(None) == file
