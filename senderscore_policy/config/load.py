"""From a TOML file to a `Config`, or to all that is wrong with it."""

import re
import tomllib
from pathlib import Path
from typing import Final

from senderscore_policy.config import sections
from senderscore_policy.config.model import Config
from senderscore_policy.config.section import Report, Section
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
    overrides = sections.read_overrides(file.sections("override") or [])
    tiers = sections.read_tiers(file.sections("tier"), file.section("unscored"), file.section("unavailable"), report)
    config = Config(
        mode=file.word("mode", default.mode, ("enforce", "observe")),
        listen=sections.read_listen(file.section("listen")),
        reputation=sections.read_reputation(file.section("reputation")),
        overrides=overrides,
        counters=sections.read_counters(file.section("counters")),
        tiers=tiers,
        exempt=sections.read_exempt(file.section("exempt")),
        over_limit=sections.read_reply(file.section("reply"), default.over_limit, tiers, overrides),
        state_directory=sections.read_state(file.section("state")),
        log=sections.read_log(file.section("log")),
    )
    file.finish()
    return config
