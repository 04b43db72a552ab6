"""The decision itself: pure values and functions; nothing here opens a socket or reads a clock."""
