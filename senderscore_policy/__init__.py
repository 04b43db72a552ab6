"""A Postfix policy server that limits messages per hour by the client's SenderScore."""

__version__ = "0.1.0"
