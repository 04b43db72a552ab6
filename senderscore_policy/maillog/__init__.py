"""Postfix's mail log: from files and the journal to the messages that clients sent."""
