"""From a TOML file to a `Config`, or to all that is wrong with it."""

import re
import tomllib
from pathlib import Path
from typing import Final

from senderscore_policy.config import model
from senderscore_policy.config.model import Config
from senderscore_policy.config.options import Report, Section
from senderscore_policy.errors import ConfigError

DEFAULT_FILE: Final = Path(__file__).with_name("default.toml")
"""The commented file of all options; what it says is what holds without any file."""


def load(path: Path | None) -> Config:
    """Read a configuration file.

    Args:
        path: the file; None: the defaults.

    Raises:
        ConfigError: it cannot be read (the cause is the OSError), or something in it is wrong.
    """
    if path is None:
        return Config()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8 text: {error.reason} at byte {error.start}"]) from error
    return parse(text, str(path))


def parse(text: str, name: str) -> Config:
    """Read a configuration.

    Args:
        text: TOML.
        name: the file as messages call it.

    Raises:
        ConfigError: with every problem, one line each: `policy.toml:12: counters.buckets: must be …`;
            a syntax error comes alone.
    """
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # TOMLDecodeError is a ValueError, and so is an integer of more digits than Python takes.
        line = re.search(r"at line (\d+)", str(error))
        place = f"{name}:{line[1]}" if line else name
        raise ConfigError([f"{place}: not valid TOML: {error}"]) from error
    report = Report(name, text)
    config = _read(Section(report, "", table), report)
    report.add_unknown()
    if report.problems:
        raise ConfigError(report.problems)
    return config


def _read(file: Section, report: Report) -> Config:
    default = Config()
    overrides = model.read_overrides(file.sections("override") or [])
    tiers = model.read_tiers(file.sections("tier"), file.section("unscored"), file.section("unavailable"), report)
    config = Config(
        mode=file.word("mode", default.mode, ("enforce", "observe")),
        listen=model.read_listen(file.section("listen")),
        reputation=model.read_reputation(file.section("reputation")),
        overrides=overrides,
        counters=model.read_counters(file.section("counters")),
        tiers=tiers,
        exempt=model.read_exempt(file.section("exempt")),
        over_limit=model.read_reply(file.section("reply"), default.over_limit, tiers, overrides),
        state_directory=model.read_state(file.section("state")),
        log=model.read_log(file.section("log")),
    )
    file.finish()
    return config
