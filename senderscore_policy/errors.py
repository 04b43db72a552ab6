"""The program's own exceptions, named by whose fault it is; their texts are fit for an administrator.

Foreign exceptions (dnspython, pymemcache, jinja2, sockets) stop at the adapter that knows the
library and leave it as one of these.
"""


class ConfigError(Exception):
    """The configuration is wrong.

    Args:
        problems: one text for each error found, each with its place and remedy; at least one.
        excerpt: the lines of a syntax error and its place; may be empty.
    """

    def __init__(self, problems: list[str], excerpt: str = "") -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        self.excerpt = excerpt


class ProtocolError(Exception):
    """The peer on a policy connection sent something that is not a policy delegation request."""


class BackendError(Exception):
    """Something behind the daemon (memcached, DNS, the daemon itself for a command) cannot be used."""


class InputError(Exception):
    """A file that a command was given to work on cannot be read, or is something else."""
