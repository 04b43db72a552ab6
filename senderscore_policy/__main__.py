"""The program's entry point, as `senderscore-policy` and as `python -m senderscore_policy`."""

import sys


def main() -> int:
    """Run the command line; Ctrl-C may come while it is still being imported."""
    try:
        from senderscore_policy import cli  # noqa: PLC0415

        return cli.main()
    except (KeyboardInterrupt, RuntimeError) as error:
        # Python 3.11 wraps what interrupts the making of a class.
        if isinstance(error, RuntimeError) and not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        return 130  # the shells' status of a program that Ctrl-C ended


if __name__ == "__main__":
    sys.exit(main())
