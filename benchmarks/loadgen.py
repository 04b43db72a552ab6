"""The load generator, compiled and run."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from servers import HERE, Server


@dataclass(frozen=True)
class Load:
    """What the load generator saw.

    Args:
        requests: answered in the measured time.
        per_second: the rate of these.
        deferred: those of them that were not answered DUNNO.
        lost: requests whose connection ended without an answer.
        cpu_seconds: the generator's own processor time.
        p50: microseconds; so are the others.
        p99: in closed loop from a request to its reply, in open loop from when it was due.
        series: the same for each second, or each `step`.
        next: the `offset` to go on from.
    """

    requests: int
    per_second: float
    deferred: int
    lost: int
    cpu_seconds: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float
    series: list[dict[str, float]]
    next: int

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the generator's output."""
        found: dict[str, Any] = json.loads(text)
        latency = found["latency_us"]
        plain = ("requests", "per_second", "deferred", "lost", "cpu_seconds", "series", "next")
        return cls(
            **{name: found[name] for name in plain}, **{name: latency[name] for name in latency if name != "mean"}
        )

    @property
    def deferred_share(self) -> float:
        """The share of the answers."""
        return self.deferred / self.requests if self.requests else 0.0


class LoadGenerator:
    """Sends requests to a server.

    Args:
        directory: where the compiled program is kept.
    """

    def __init__(self, directory: Path) -> None:
        self._program = directory / "load"
        command = ["cc", "-O2", "-Wall", "-Wextra", "-o", str(self._program), str(HERE / "load.c")]
        subprocess.run(command, check=True)

    def run(self, server: Server, **options: object) -> Load:
        """Send requests until its end.

        Args:
            server: the server.
            options: of the program, `warm_up` for --warm-up and so on.
        """
        return self.wait(self.begin(server, **options))

    def begin(self, server: Server, **options: object) -> "subprocess.Popen[str]":
        """Begin to send requests."""
        arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        command = [str(self._program), "--port", str(server.port), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait(self, process: "subprocess.Popen[str]") -> Load:
        """Wait for the end of one begun."""
        output, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"load generator: {errors.strip()}")
        return Load.from_json(output)
