"""The command `serve`."""

import argparse

from senderscore_policy import daemon as service
from senderscore_policy.commands.arguments import add_config
from senderscore_policy.config.load import load
from senderscore_policy.config.paths import config_file


def register(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = """Run the daemon in the foreground, until SIGTERM or Ctrl-C.

SIGHUP makes it read its file again; a file with a mistake changes nothing, and the log says why.
Under systemd it tells when it is ready, and takes sockets that systemd has opened."""
    parser.epilog = """example:
  senderscore-policy serve -c ./policy.toml

In Postfix's main.cf:
  smtpd_end_of_data_restrictions =
      permit_mynetworks,
      check_policy_service { inet:127.0.0.1:10045, timeout=5s, try_limit=1, default_action=DUNNO }"""
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Serve."""
    path = config_file(args.config)
    return service.run(load(path), path)
