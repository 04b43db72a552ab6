"""The program's entry point, as `senderscore-policy` and as `python -m senderscore_policy`."""

import os
import signal
import sys


def main() -> int:
    """Run the command line; Ctrl-C ends it at once, with the shells' status for that.

    Python's KeyboardInterrupt would become other errors in the middle of an import.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background job ignores it
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from senderscore_policy import cli  # noqa: PLC0415 - so that Ctrl-C may come during the import

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
