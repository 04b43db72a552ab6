"""A real memcached on loopback."""

import os
import shutil
import signal
import subprocess

from waiting import free_port, wait_for_listener

MEMCACHED = shutil.which("memcached")


class MemcachedServer:
    """A memcached of its own; it can be killed, frozen and started again on the same port.

    Args:
        options: further ones of its command line, such as "-m", "1".

    Attributes:
        port: of 127.0.0.1, TCP.
        process: running now or last.
    """

    process: "subprocess.Popen[bytes]"

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self._options = options
        self.start()

    @property
    def address(self) -> str:
        """For `servers`."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, empty; it accepts connections when this returns."""
        assert MEMCACHED, "memcached is not installed"
        # It refuses to run as root.
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        command = [MEMCACHED, "-l", "127.0.0.1", "-p", str(self.port), "-U", "0", *user, *self._options]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        wait_for_listener(self.port)

    def kill(self) -> None:
        """End it without warning, if it still runs."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Make it hang: it accepts connections and says nothing, until `thaw`."""
        self.process.send_signal(signal.SIGSTOP)
        # Its threads stop one by one.
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)
