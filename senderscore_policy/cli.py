"""The command line: one module for each command, imported when it runs; errors become exit codes."""

import argparse
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from senderscore_policy import __version__
from senderscore_policy.errors import BackendError, ConfigError

PROGRAM: Final = "senderscore-policy"
INTERRUPTED: Final = 130
"""The exit status of a program that Ctrl-C ended, by the shells' convention."""

COMMANDS: Final = {
    "serve": "run the daemon in the foreground",
    "check-config": "show every mistake in the configuration, or its tiers and warnings",
    "get": "show how many messages a client sent, and its limit",
    "score": "look up a client's score",
    "increment": "count messages for a client",
    "reset": "forget a client's messages",
    "ask": "send one policy request to the daemon, as Postfix does",
    "doctor": "check everything that limiting mail depends on",
    "explain": "show recent decisions about a message or a client, and their reasons",
    "forecast": "replay mail logs against the limits",
    "top": "show the busiest clients, kept up to date",
}
_MODULES: Final = {
    **dict.fromkeys(("get", "score", "increment", "reset"), "clients"),
    "doctor": "doctor.examination",
    "forecast": "forecast.command",
}
"""The modules that are not named after their command, in `senderscore_policy.commands`."""

Register = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace], int]

_EPILOG: Final = f"""commands:
{"".join(f"  {name:<14}{summary}{os.linesep}" for name, summary in COMMANDS.items())}
Each command has its own --help with an example, and takes -c FILE.

exit status: 0 done, 64 wrong usage, 69 daemon or back end not reachable, 77 no permission,
78 mistake in the configuration
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the exit status for wrong usage."""

    def error(self, message: str) -> NoReturn:
        """End the program."""
        self.exit(os.EX_USAGE, f"{PROGRAM}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the command and its arguments; None: those of the process.

    Returns:
        The exit status.

    Raises:
        SystemExit: wrong usage, --help or --version.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A reply may hold what the terminal's encoding has no sign for.
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:] if argv is None else list(argv)
    name = _first_argument(arguments)
    if name == "serve":
        # SIGHUP would end the process before the daemon handles it; blocked, it becomes a reload after the start.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    register, run = command(name)
    parser = Parser(f"{PROGRAM} {name}", formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    register(parser)
    return _run(run, parser.parse_intermixed_args(arguments[1:]))


def command(name: str) -> tuple[Register, Run]:
    """Import a command.

    Returns:
        A function that describes the command to a parser, and one that does the work and returns the exit status.
    """
    module = importlib.import_module(f"senderscore_policy.commands.{_MODULES.get(name, name.replace('-', '_'))}")
    suffix = f"_{name}" if _MODULES.get(name) == "clients" else ""
    return getattr(module, f"register{suffix}"), getattr(module, f"run{suffix}")


def _first_argument(arguments: Sequence[str]) -> str:
    parser = Parser(
        PROGRAM,
        usage=f"{PROGRAM} COMMAND [-c FILE] ...",
        description="Limits how many messages a client may send to Postfix by its SenderScore.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS, metavar="COMMAND")
    name: str = parser.parse_args(arguments[:1]).command
    return name


def _run(run: Run, args: argparse.Namespace) -> int:
    try:
        status = run(args)
        sys.stdout.flush()
    except ConfigError as error:
        denied = isinstance(error.__cause__, PermissionError)
        return _fail(os.EX_NOPERM if denied else os.EX_CONFIG, *error.problems)
    except BackendError as error:
        return _fail(os.EX_UNAVAILABLE, str(error))
    except PermissionError as error:
        return _fail(os.EX_NOPERM, str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output (head, less) had enough. What is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return os.EX_OK
    return status


def _fail(status: int, *problems: str) -> int:
    for problem in problems:
        sys.stderr.write(f"{PROGRAM}: {problem}\n")
    return status
