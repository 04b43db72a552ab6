"""The daemon as a whole, where a test needs no process of its own."""

import asyncio
from pathlib import Path

import pytest

from senderscore_policy.config import paths
from senderscore_policy.config.model import Config
from senderscore_policy.daemon import Service
from senderscore_policy.monitoring.log import LogWriter


def test_a_file_that_is_made_later_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that began without a file reads the system's at SIGHUP, and then misses it when it is gone."""
    file = tmp_path / "policy.toml"
    monkeypatch.setattr(paths, "CONFIG_FILE", file)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))

    async def scenario() -> None:
        writer = LogWriter(lambda _level, _lines: None)
        service = Service(Config(), None, writer)
        service.reload()
        assert service._config.mode == "enforce"
        file.write_text('mode = "observe"\n')
        service.reload()
        assert service._config.mode == "observe"
        assert (await service._facts())["file"] == str(file)
        generation = service.generation
        file.unlink()
        service.reload()
        assert service.generation == generation
        writer.close()

    asyncio.run(scenario())
