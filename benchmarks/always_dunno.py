"""A policy server that parses nothing and always answers DUNNO: what Python's event loop can do at most.

always_dunno.py PORT. It runs on uvloop where the daemon would (where it is installed).
"""

import asyncio
import sys

try:
    from uvloop import new_event_loop
except ImportError:
    from asyncio import new_event_loop

REPLY = b"action=DUNNO\n\n"


class AlwaysDunno(asyncio.Protocol):
    """One reply for each empty line."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (uvloop's do not inherit from asyncio.Transport)."""
        self._write = transport.write  # type: ignore[attr-defined]
        self._last = b""

    def data_received(self, data: bytes) -> None:
        """Answer the requests that end here; an end may fall between two pieces."""
        ends = (self._last + data).count(b"\n\n")
        self._last = b"" if data.endswith(b"\n\n") else data[-1:]
        if ends:
            self._write(REPLY * ends)


async def serve(port: int) -> None:
    """Serve on 127.0.0.1 until killed; says so on standard output once it listens."""
    server = await asyncio.get_running_loop().create_server(AlwaysDunno, "127.0.0.1", port)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
