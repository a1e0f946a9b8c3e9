"""A real redis-server on a free loopback port, in memory only, stopped by its pid."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import redis

from tests.support.ports import free_port

START_SECONDS: Final = 10.0


class RedisServer:
    """One server that can be killed, restarted on its port, stopped and continued."""

    def __init__(self, *, password: str = "") -> None:
        self.port = free_port(socket.SOCK_STREAM)
        self._password = password
        self._directory = tempfile.mkdtemp(prefix="edge-redis-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What an edge is told."""
        credentials = f":{self._password}@" if self._password else ""
        return f"redis://{credentials}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start and wait until it answers."""
        program = shutil.which("redis-server")
        assert program is not None, "redis-server is not installed"
        options = {"port": str(self.port), "bind": "127.0.0.1", "save": "", "appendonly": "no"}
        options |= {"dir": self._directory}
        if self._password:
            options["requirepass"] = self._password
        arguments = [text for key, value in options.items() for text in (f"--{key}", value)]
        self._process = subprocess.Popen(
            [program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._wait_until_it_answers()

    def kill(self) -> None:
        """End it as a crash does; everything in it is lost."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(5)
        self._process = None

    def freeze(self) -> None:
        """Let it hang: connections are taken, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def client(self) -> redis.Redis:
        """A client of the test's own, to look and to meddle."""
        return redis.Redis.from_url(self.url, protocol=2)

    def close(self) -> None:
        """End it and leave nothing behind."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        with self.client() as client:
            while True:
                try:
                    client.ping()
                except redis.ConnectionError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
                else:
                    return


@contextmanager
def running_redis(*, password: str = "") -> Iterator[RedisServer]:
    """Run a server for the length of a block."""
    server = RedisServer(password=password)
    try:
        server.start()
        yield server
    finally:
        server.close()
