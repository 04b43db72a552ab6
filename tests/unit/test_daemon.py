"""The daemon as a whole, where a test needs no process of its own."""

from pathlib import Path

import pytest

from senderscore_policy.config import paths
from senderscore_policy.config.model import Config
from senderscore_policy.daemon import Service
from senderscore_policy.monitoring.log import LogWriter


async def test_a_file_that_is_made_later_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that was started without a file loads the system's at SIGHUP; its removal is then a failed reload."""
    file = tmp_path / "policy.toml"
    monkeypatch.setattr(paths, "CONFIG_FILE", file)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    writer = LogWriter(lambda _level, _lines: None)
    service = Service(Config(), None, writer)
    await service.reload()
    assert (service._config.mode, service.generation, service.reload_failed) == ("enforce", 2, False)
    file.write_text('mode = "observe"\n')
    await service.reload()
    assert (service._config.mode, service._path) == ("observe", file)
    file.unlink()
    await service.reload()
    assert (service.generation, service.reload_failed) == (3, True)
    file.write_text("")
    await service.reload()
    assert (service._config.mode, service.generation, service.reload_failed) == ("enforce", 4, False)
    writer.close()
