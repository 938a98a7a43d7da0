"""PostgreSQL and Valkey with real data, each with a session that stays open over every sleep."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
from typing import Final

from demo import network, postgres, resp
from demo.errors import DemoError
from demo.pods import Application
from demo.story import State, Story, Wake

ROWS: Final = 50_000
KEYS: Final = 20_000
BATCH: Final = 1_000

COUNT: Final = "SELECT count(*) FROM reading"
CHECKSUM: Final = "SELECT md5(string_agg(id || ':' || payload, ',' ORDER BY id)) FROM reading"
LOAD: Final = f"""
    DROP TABLE IF EXISTS reading;
    CREATE TABLE reading (id integer PRIMARY KEY, payload text NOT NULL);
    INSERT INTO reading SELECT n, md5(random()::text) FROM generate_series(1, {ROWS}) AS n;
    CREATE TEMPORARY TABLE mine (word text);
    INSERT INTO mine VALUES ('only this session sees it');
    PREPARE nth(integer) AS SELECT payload FROM reading WHERE id = $1
"""


def postgresql(app: Application) -> Story:
    """Load the rows and return the story."""
    inside, address = app.cluster.plane.machine.network, app.service()["clusterIP"]
    secret = json.loads(app.kubectl("get", "secret", app.name, "-o", "json"))["data"]["password"]

    def connect() -> postgres.Session:
        return postgres.Session(
            network.tcp(inside, address, 5432),
            user="postgres",
            password=base64.b64decode(secret).decode(),
        )

    session = connect()
    with app.cluster.progress.step(f"postgresql: loading {ROWS} rows"):
        session.query(LOAD)
    first = session.value(f"EXECUTE nth({ROWS})")

    def observe() -> State:
        return {
            "rows": session.value(COUNT),
            "checksum": session.value(CHECKSUM),
            "backend": session.value("SELECT pg_backend_pid()"),
            "started": session.value("SELECT pg_postmaster_start_time()"),
            "temporary table": session.value("SELECT word FROM mine"),
            "prepared statement": session.value(f"EXECUTE nth({ROWS})") == first,
        }

    def same_session() -> State:
        return {"rows": session.value(COUNT)}

    def new_session() -> State:
        other = connect()
        try:
            return {"rows": other.value(COUNT)}
        finally:
            other.close()

    def execute() -> State:
        pod = app.pod()["metadata"]["name"]
        said = app.kubectl("exec", pod, "--", "psql", "-U", "postgres", "-Atc", COUNT)
        return {"rows": said.strip()}

    if session.value(COUNT) != str(ROWS):
        raise DemoError(f"postgresql: {session.value(COUNT)} rows after loading {ROWS}")
    return Story(
        application=app,
        subject=f"PostgreSQL, {ROWS} rows",
        observe=observe,
        close=session.close,
        wakes=(
            Wake(title="query in a session that was open all the time", act=same_session),
            Wake(title="new connection through the Service", act=new_session),
            Wake(title="kubectl exec psql", act=execute),
        ),
    )


def valkey(app: Application) -> Story:
    """Load the keys and return the story."""
    inside, address = app.cluster.plane.machine.network, app.service()["clusterIP"]

    def connect() -> resp.Session:
        return resp.Session(network.tcp(inside, address, 6379))

    session = connect()
    with app.cluster.progress.step(f"valkey: loading {KEYS} keys"):
        session.call("FLUSHALL")
        for start in range(0, KEYS, BATCH):
            session.pipeline(
                [
                    ("SET", f"key:{n}", hashlib.sha256(str(n).encode()).hexdigest())
                    for n in range(start, start + BATCH)
                ]
            )

    def observe() -> State:
        return {
            "keys": session.call("DBSIZE"),
            "digest": digest(session),
            "run id": field(str(session.call("INFO", "server")), "run_id"),
            "session": session.call("CLIENT", "ID"),
        }

    def same_session() -> State:
        return {"keys": session.call("DBSIZE")}

    def new_session() -> State:
        other = connect()
        try:
            return {"keys": other.call("DBSIZE")}
        finally:
            other.close()

    def execute() -> State:
        pod = app.pod()["metadata"]["name"]
        return {"keys": int(app.kubectl("exec", pod, "--", "valkey-cli", "DBSIZE").strip())}

    if session.call("DBSIZE") != KEYS:
        raise DemoError(f"valkey: {session.call('DBSIZE')} keys after loading {KEYS}")
    return Story(
        application=app,
        subject=f"Valkey, {KEYS} keys, append-only file",
        observe=observe,
        close=session.close,
        wakes=(
            Wake(title="command in a session that was open all the time", act=same_session),
            Wake(title="new connection through the Service", act=new_session),
            Wake(title="kubectl exec valkey-cli", act=execute),
        ),
    )


def postgresql_state(connection: socket.socket, *, password: str) -> State:
    """Return what a new session sees of the database and its server; *connection* is closed."""
    with connection:
        session = postgres.Session(connection, user="postgres", password=password)
        return {
            "rows": session.value(COUNT),
            "checksum": session.value(CHECKSUM),
            "started": session.value("SELECT pg_postmaster_start_time()"),
        }


def valkey_state(connection: socket.socket) -> State:
    """Return what a new session sees of the store and its server; *connection* is closed."""
    with connection:
        session = resp.Session(connection)
        return {
            "keys": session.call("DBSIZE"),
            "digest": digest(session),
            "run id": field(str(session.call("INFO", "server")), "run_id"),
        }


def digest(session: resp.Session) -> str:
    """Return the SHA-256 of all keys and values, read over *session*."""
    found = hashlib.sha256()
    for start in range(0, KEYS, BATCH):
        names = [f"key:{n}" for n in range(start, start + BATCH)]
        values = session.call("MGET", *names)
        found.update(json.dumps([names, values]).encode())
    return found.hexdigest()


def field(info: str, name: str) -> str:
    """Return one field of what INFO says."""
    for line in info.splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value
    raise DemoError(f"valkey: INFO has no {name}")
