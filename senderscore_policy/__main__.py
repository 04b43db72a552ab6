"""The program's entry point, as `senderscore-policy` and as `python -m senderscore_policy`."""

import sys

INTERRUPTED = 130
"""The exit status of a program that Ctrl-C ended, by the shells' convention."""


def main() -> int:
    """Run the command line; Ctrl-C may come while it is still being imported."""
    try:
        from senderscore_policy import cli  # noqa: PLC0415

        return cli.main()
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
