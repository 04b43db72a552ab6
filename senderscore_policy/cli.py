"""The command line: one module for each command, imported when it runs; errors become exit codes."""

import argparse
import contextlib
import errno
import importlib
import io
import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from senderscore_policy import __version__
from senderscore_policy.errors import BackendError, ConfigError, InputError

PROGRAM: Final = "senderscore-policy"
_OUTPUT_ERRORS: Final = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})

COMMANDS: Final = {
    "serve": "run the daemon in the foreground",
    "check-config": "show every mistake in the configuration, or what it changes",
    "get": "show how many messages a client sent, and its limit",
    "score": "look up a client's score",
    "increment": "count messages for a client",
    "reset": "forget a client's messages",
    "ask": "send one policy request to the daemon, as Postfix does",
    "doctor": "check everything that limiting mail depends on",
    "explain": "show recent decisions about a message or a client, with reasons",
    "forecast": "replay mail logs against the limits",
    "top": "show the busiest clients, and update the list",
}
_MODULES: Final = {
    **dict.fromkeys(("get", "score", "increment", "reset"), "clients"),
    "doctor": "doctor.examination",
    "forecast": "forecast.command",
}
"""The modules that are not named after their command, in `senderscore_policy.commands`."""


class Formatter(argparse.HelpFormatter):
    """Help whose paragraphs are wrapped to the terminal; examples, and texts in columns, keep their layout."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:  # noqa: ARG002 - argparse passes it
        return "\n\n".join(
            part if re.search(r"^ |\S {2,}\S", part, re.MULTILINE) else textwrap.fill(part, width)
            for part in text.split("\n\n")
        )


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the exit status for wrong usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(os.EX_USAGE, f"{PROGRAM}: {message}; see {self.prog} --help\n")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Convert an argument; argparse would not show the text of a ValueError."""
        try:
            return action.type(arg_string) if callable(action.type) else arg_string
        except ValueError as error:
            raise argparse.ArgumentError(action, str(error)) from error

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help; argparse would ignore a full disk."""
        (file or sys.stderr).write(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command (by default that of the process) and return the exit status.

    Raises:
        SystemExit: wrong usage, --help or --version.
    """
    for name in ("stdout", "stderr"):
        # Python leaves None in the place of a closed descriptor.
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A reply may hold what the terminal's encoding has no sign for.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(sys.argv[1:] if argv is None else list(argv))
        finally:
            sys.stdout.flush()
    except OSError as error:
        # The reader of the output (head, less) has closed it, or the disk is full.
        if error.errno not in _OUTPUT_ERRORS:
            raise
        problem = f"cannot write the output: {error.strerror}"
        status = os.EX_OK if isinstance(error, BrokenPipeError) else _fail(os.EX_IOERR, problem)
        # The rest of the output must not fail again at exit.
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return status


def _run(arguments: list[str]) -> int:
    general = _general(arguments)
    if general.command == "serve":
        # SIGHUP would end the process before the daemon handles it; blocked, it becomes a reload after the start.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    parser, run = command(general.command)
    args = parser.parse_intermixed_args(general.arguments, argparse.Namespace(config=general.config))
    try:
        return run(args)
    except ConfigError as error:
        denied = isinstance(error.__cause__, PermissionError)
        return _fail(os.EX_NOPERM if denied else os.EX_CONFIG, *error.problems, excerpt=error.excerpt)
    except (BackendError, InputError) as error:
        return _fail(os.EX_UNAVAILABLE if isinstance(error, BackendError) else os.EX_USAGE, str(error))
    except PermissionError as error:
        return _fail(os.EX_NOPERM, f"{error.filename}: {error.strerror}" if error.errno else str(error))


def command(name: str) -> tuple[Parser, Callable[[argparse.Namespace], int]]:
    """Import a command: the parser of its arguments, and the function that does it and returns the exit status."""
    from senderscore_policy.config.paths import CONFIG_FILE  # noqa: PLC0415 - `serve` blocks SIGHUP before

    module = importlib.import_module(f"senderscore_policy.commands.{_MODULES.get(name, name.replace('-', '_'))}")
    suffix = f"_{name}" if _MODULES.get(name) == "clients" else ""
    parser = Parser(f"{PROGRAM} {name}", formatter_class=Formatter, allow_abbrev=False)
    help_ = f"the configuration file (default: {CONFIG_FILE}, and without it the built-in defaults)"
    # Absent, it leaves the value of a -c before the command.
    parser.add_argument("-c", "--config", metavar="FILE", type=Path, default=argparse.SUPPRESS, help=help_)
    getattr(module, f"register{suffix}")(parser)
    return parser, getattr(module, f"run{suffix}")


def _general(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(PROGRAM, f"{PROGRAM} [-c FILE] COMMAND ...", formatter_class=Formatter, allow_abbrev=False)
    parser.description = "Limits how many messages a client may send to Postfix by its SenderScore."
    parser.epilog = f"""commands:
{"".join(f"  {name:<14}{summary}{os.linesep}" for name, summary in COMMANDS.items())}
Each command has its own --help with an example.

exit status: 0 done, 64 wrong usage, 69 daemon or back end not reachable,
74 output not written, 77 no permission, 78 mistake in the configuration
"""
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("-c", "--config", metavar="FILE", type=Path, help="the configuration file, for any command")
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS, metavar="COMMAND")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _fail(status: int, *problems: str, excerpt: str = "") -> int:
    with contextlib.suppress(OSError):  # that disk may be full, too
        for problem in problems:
            sys.stderr.write(f"{PROGRAM}: {problem}\n")
        sys.stderr.write(excerpt and f"{excerpt}\n")
    return status
