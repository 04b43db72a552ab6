"""The command `serve`."""

import argparse

from senderscore_policy import daemon as service
from senderscore_policy.config.paths import config_file


def register(parser: argparse.ArgumentParser) -> None:
    parser.description = """Run the daemon in the foreground, until SIGTERM or Ctrl-C.

At SIGHUP it reads its file again; a file with a mistake changes nothing, and the log says why. Under systemd it reports
when it is ready, and uses sockets that systemd has opened."""
    parser.epilog = """example:
  senderscore-policy serve -c ./policy.toml

In Postfix's main.cf:
  smtpd_end_of_data_restrictions =
      permit_mynetworks,
      check_policy_service { inet:127.0.0.1:10045, timeout=5s, try_limit=1, default_action=DUNNO }"""


def run(args: argparse.Namespace) -> int:
    return service.run(config_file(args.config))
