"""The running service: sockets, reload, status, logs, systemd."""
