"""Clients of the databases: real data, real client programs, and the books that must balance."""

from __future__ import annotations

import abc
import contextlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final

from applications import load
from applications.clients import Client, lost, timed
from applications.subject import Subject
from demo import databases, resp
from demo.errors import ProofFailed
from demo.story import State

STOP: Final = "/tmp/stop"
"""In the clients' pod: its programs end when it is there."""


class Programs(Client):
    """Has a client program run again and again in the pod of the clients."""

    once: str
    """The shell's words for one run."""

    def load(self) -> AbstractContextManager[object]:
        return self._load()

    def shell(self, script: str, *, timeout_seconds: float = 120) -> str:
        """Run *script* in the clients' pod. Raises CommandFailed."""
        words = ("sh", "-euc", script)
        return self.subject.clients().execute(*words, timeout_seconds=timeout_seconds)

    def timed(self, script: str) -> tuple[float, list[str]]:
        """Run *script* and return how many seconds it took in there, and its lines."""
        said = self.shell(f"date +%s.%N; {script}; date +%s.%N").splitlines()
        return float(said[-1]) - float(said[0]), said[1:-1]

    @abc.abstractmethod
    def account(self, lines: list[str]) -> None:
        """Write down what the program's lines say that it did."""

    @contextlib.contextmanager
    def _load(self) -> Iterator[None]:
        clients = self.subject.clients()
        self.shell(f"rm -f {STOP}")
        script = f"while [ ! -e {STOP} ]; do {self.once}; done"
        words = [
            *(str(clients.cluster.kubectl_program), "-n", clients.namespace, "exec"),
            *(f"deployment/{clients.name}", "--", "sh", "-euc", script),
        ]
        environment = clients.cluster.client_environment()
        with load.program(
            self.subject.name,
            words,
            environment=environment,
            end=lambda: self.shell(f"touch {STOP}"),
        ) as lines:
            yield
        self.account(lines)


class Pgbench(Programs):
    """Runs pgbench: its accounts, tellers, branches and history must tell the same sum.

    Each run logs in anew with four connections, keeps them for some transactions, and logs out.
    """

    SCALE: Final = 3
    PORT: Final = 5432
    _DONE: Final = re.compile(r"^number of transactions actually processed: (\d+)/(\d+)$")
    _FAILED: Final = re.compile(r"^number of failed transactions: (\d+) ")
    BOOKS: Final = """
        SELECT (SELECT sum(abalance) FROM pgbench_accounts),
               (SELECT sum(tbalance) FROM pgbench_tellers),
               (SELECT sum(bbalance) FROM pgbench_branches),
               (SELECT coalesce(sum(delta), 0) FROM pgbench_history),
               (SELECT count(*) FROM pgbench_history),
               (SELECT count(*) FROM pgbench_accounts)
    """

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._done = 0
        self._server = f"-h {subject.address} -U postgres postgres"
        # With pauses in between, as clients have them.
        self.once = f"pgbench -n -c 4 -j 2 -t 40 -R 80 {self._server}"

    def fill(self) -> None:
        self.shell(f"pgbench -i -q -s {self.SCALE} {self._server}")

    def first(self) -> float:
        seconds, lines = self.timed(f"pgbench -n -c 1 -t 1 {self._server}")
        self.account(lines)
        return seconds

    def observe(self) -> State:
        return {
            "started": self._psql("SELECT pg_postmaster_start_time()"),
            "accounts": self._psql("SELECT count(*) FROM pgbench_accounts"),
        }

    def check(self) -> str:
        accounts, tellers, branches, history, transactions, rows = self._psql(self.BOOKS).split("|")
        if len({accounts, tellers, branches, history}) != 1:
            raise lost(self.subject, "sums", expected=history, seen=(accounts, tellers, branches))
        if int(transactions) != self._done:
            raise lost(self.subject, "transactions", expected=self._done, seen=transactions)
        if int(rows) != self.SCALE * 100_000:
            raise lost(self.subject, "accounts", expected=self.SCALE * 100_000, seen=rows)
        return f"{self._done} transactions"

    def account(self, lines: list[str]) -> None:
        for line in lines:
            if match := self._DONE.match(line):
                if match[1] != match[2]:
                    raise lost(self.subject, "transactions", expected=match[2], seen=match[1])
                self._done += int(match[1])
            elif (match := self._FAILED.match(line)) and match[1] != "0":
                raise lost(self.subject, "failed transactions", expected=0, seen=line)

    def _psql(self, text: str) -> str:
        return self.shell(f'psql -qAtc "{text}" {self._server}').strip()


class Slap(Programs):
    """Runs mariadb-slap, which inserts rows by four connections that it keeps for a while."""

    ROWS: Final = 20_000
    PORT: Final = 3306
    QUERIES: Final = 40

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._done = 0
        self._server = f"-h {subject.address} -ubench -pbench"
        self.once = (
            f"mariadb-slap --silent {self._server} --no-drop --create-schema=bench --concurrency=4 "
            f"--number-of-queries={self.QUERIES} --delimiter=';' "
            '--query="INSERT INTO bench.entry (word) VALUES (UUID())" && echo done && sleep 0.1'
        )

    def fill(self) -> None:
        said = f"INSERT INTO bench.reading SELECT seq, MD5(RAND()) FROM bench.seq_1_to_{self.ROWS}"
        self._ask(said)

    def first(self) -> float:
        text = "INSERT INTO bench.entry (word) VALUES (UUID())"
        seconds, _ = self.timed(f'mariadb {self._server} -BNe "{text}" bench')
        self._done += 1
        return seconds

    def observe(self) -> State:
        text = "SELECT COUNT(*), BIT_XOR(CRC32(CONCAT(id, payload))) FROM bench.reading"
        return {
            "rows": self._ask(text),
            "process": self._ask("SELECT @@pid_file, @@server_uid"),
        }

    def check(self) -> str:
        entries = int(self._ask("SELECT COUNT(DISTINCT id) FROM bench.entry"))
        if entries != self._done:
            raise lost(self.subject, "rows inserted", expected=self._done, seen=entries)
        if self._ask("SELECT COUNT(*) FROM bench.reading") != str(self.ROWS):
            raise lost(self.subject, "rows", expected=self.ROWS, seen="others")
        return f"{entries} rows inserted"

    def account(self, lines: list[str]) -> None:
        self._done += self.QUERIES * lines.count("done")

    def _ask(self, text: str) -> str:
        return self.shell(f'mariadb {self._server} -BNe "{text}" bench').strip()


class Keys(Client):
    """Counts and lists in Valkey, by a connection that is kept and by new ones."""

    NUMBER: Final = 20_000
    BATCH: Final = 1_000
    PORT: Final = 6379

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._counted = self._listed = 0
        self._session = self._connect()

    def fill(self) -> None:
        for start in range(0, self.NUMBER, self.BATCH):
            numbers = range(start, start + self.BATCH)
            self._session.pipeline([("SET", f"key:{n}", f"value of {n}") for n in numbers])

    def load(self) -> AbstractContextManager[object]:
        return load.steady(self.subject.name, [self._kept, self._new])

    def first(self) -> float:
        return timed(self._once)

    def _once(self) -> None:
        session = self._connect()
        try:
            said = session.call("INCR", "counter")
        finally:
            session.close()
        self._counted += 1
        if said != self._counted:
            raise lost(self.subject, "counter", expected=self._counted, seen=said)

    def observe(self) -> State:
        info = str(self._session.call("INFO"))
        return {
            "keys": self._session.call("DBSIZE"),
            "run id": databases.field(info, "run_id"),
            "session": self._session.call("CLIENT", "ID"),
            "append-only file": databases.field(info, "aof_enabled"),
            "last write to it": databases.field(info, "aof_last_write_status"),
            "values": self._values(),
        }

    def check(self) -> str:
        said = self._session.call("LRANGE", "list", "0", "-1")
        if said != [str(number) for number in range(self._listed)]:
            raise lost(self.subject, "list", expected=self._listed, seen=said)
        if self._session.call("GET", "counter") != str(self._counted):
            raise lost(self.subject, "counter", expected=self._counted, seen="another")
        self._check_file()
        return f"{self._counted + self._listed} commands"

    def close(self) -> None:
        self._session.close()

    def _check_file(self) -> None:
        """Read the append-only file with the program for it, as a restart would."""
        time.sleep(1.1)  # appendfsync everysec
        said = self.subject.execute("sh", "-c", "valkey-check-aof /data/appendonlydir/*.manifest")
        if "All AOF files and manifest are valid" not in said:
            raise ProofFailed(f"{self.subject.name}: its append-only file: {said}")

    def _connect(self) -> resp.Session:
        return resp.Session(self.subject.connect(self.PORT))

    def _values(self) -> bool:
        wanted = [f"value of {n}" for n in range(self.BATCH)]
        return self._session.call("MGET", *(f"key:{n}" for n in range(self.BATCH))) == wanted

    @contextlib.contextmanager
    def _kept(self) -> Iterator[Callable[[], None]]:
        session = self._connect()

        def push() -> None:
            self._listed += 1
            said = session.call("RPUSH", "list", str(self._listed - 1))
            if said != self._listed:
                raise lost(self.subject, "list", expected=self._listed, seen=said)

        try:
            yield push
        finally:
            session.close()

    @contextlib.contextmanager
    def _new(self) -> Iterator[Callable[[], None]]:
        yield self._once
