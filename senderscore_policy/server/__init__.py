"""The policy sockets, their connections, and the state directory."""
