"""The applications: each with its image, its pod, its client, and what must hold."""

from __future__ import annotations

import functools
from typing import Any, Final

from applications import images
from applications.clients import Counting, Crowd, Status
from applications.databases import Keys, Pgbench, Slap
from applications.entry import IDLE, Entry, StaysAwake
from applications.subject import CLIENTS, PROGRAMS_PATH, container
from architect.api import names

DATA: Final = {"name": "data", "mountPath": "/data"}
EMPTY: Final = {"name": "data", "emptyDir": {}}
USER: Final = {"runAsUser": 10001, "runAsGroup": 10001, "runAsNonRoot": True, "fsGroup": 10001}
"""As who the databases run."""
CONNECTIONS: Final = {names.IDLE: IDLE, names.WAKE_ON: "connections"}
MANY: Final = 2_000
"""Open connections."""
BIG_MEBIBYTES: Final = 4096
COUNTED: Final = "requests counted by the server and by its clients are the same number"


def _python(*words: str) -> list[str]:
    return ["python3", "-u", f"{PROGRAMS_PATH}/threaded.py", "8080", *words]


def _clients(image: str, **environment: str) -> dict[str, Any]:
    variables = [{"name": name, "value": value} for name, value in environment.items()]
    return {
        "name": CLIENTS,
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["sleep", "infinity"],
        "env": variables,
    }


POSTGRESQL: Final = Entry(
    name="postgresql",
    title="PostgreSQL under pgbench",
    images=[images.POSTGRESQL],
    port=Pgbench.PORT,
    annotations=CONNECTIONS,
    client=Pgbench,
    containers=[
        container(
            "postgresql",
            images.POSTGRESQL,
            ["/usr/local/bin/entrypoint.sh", "-c", "fsync=on"],
            port=Pgbench.PORT,
            env=[{"name": "POSTGRES_PASSWORD", "value": "example"}],
            volumeMounts=[DATA],
        )
    ],
    spec={"securityContext": USER, "volumes": [EMPTY]},
    clients=_clients(images.POSTGRESQL, PGPASSWORD="example"),
    version=["sh", "-c", "echo PostgreSQL $(postgres --version | cut -d' ' -f3)"],
    holds="`wake-on: connections`; accounts, tellers, branches and history have one sum, and the "
    "history has each transaction that pgbench was told of",
)
VALKEY: Final = Entry(
    name="valkey",
    title="Valkey with append-only file",
    images=[images.VALKEY],
    port=Keys.PORT,
    client=Keys,
    containers=[
        container(
            "valkey",
            images.VALKEY,
            [
                *("valkey-server", "--dir", "/data", "--appendonly", "yes"),
                *("--bind", "*", "-::*", "--protected-mode", "no"),
            ],
            port=Keys.PORT,
            volumeMounts=[DATA],
        )
    ],
    spec={"securityContext": USER, "volumes": [EMPTY]},
    version=["sh", "-c", "valkey-server --version | sed 's/.* v=\\([^ ]*\\).*/Valkey \\1/'"],
    holds="each write that was acknowledged, in its order; the append-only file is valid",
)
NGINX: Final = Entry(
    name="nginx",
    title="nginx, a master and four workers",
    images=[images.SERVERS],
    client=functools.partial(Status, workers=4),
    containers=[
        container(
            "nginx",
            images.SERVERS,
            ["nginx", "-c", f"{PROGRAMS_PATH}/nginx.conf", "-g", "daemon off;"],
        )
    ],
    version=["sh", "-c", "nginx -v 2>&1 | sed 's,.*/,nginx ,'"],
    holds="its own counter of requests, in memory that the workers share, is the clients'",
)
NODE: Final = Entry(
    name="nodejs",
    title="Node.js HTTP server",
    images=[images.SERVERS],
    client=Counting,
    containers=[
        container("nodejs", images.SERVERS, ["node", f"{PROGRAMS_PATH}/counter.js", "8080"])
    ],
    version=["sh", "-c", "echo Node.js $(node --version)"],
    holds=COUNTED,
)
GO: Final = Entry(
    name="go",
    title="Go HTTP server",
    images=[images.GO],
    client=Counting,
    containers=[container("go", images.GO, ["/gocounter"])],
    version=["/gocounter", "version"],
    holds=COUNTED,
)
THREADED: Final = Entry(
    name="threaded",
    title="Python HTTP server, a thread for each connection",
    client=Counting,
    containers=[container("threaded", images.PYTHON, _python())],
    version=["python3", "--version"],
    holds=COUNTED,
)
MARIADB: Final = Entry(
    name="mariadb",
    title="MariaDB under mariadb-slap",
    images=[images.SERVERS],
    port=Slap.PORT,
    annotations=CONNECTIONS,
    client=Slap,
    containers=[
        container(
            "mariadb",
            images.SERVERS,
            [
                *("sh", "-euc"),
                "mariadb-install-db --no-defaults --datadir=/data/db --skip-test-db > /dev/null; "
                "exec mariadbd --no-defaults --datadir=/data/db --socket=/data/socket "
                "--pid-file=/data/pid --bind-address=0.0.0.0 --skip-name-resolve "
                f"--init-file={PROGRAMS_PATH}/mariadb.sql",
            ],
            port=Slap.PORT,
            # A connection that says nothing counts as an error of its host's.
            probe={
                "exec": {
                    "command": [
                        *("mariadb-admin", "--no-defaults", "--socket=/data/socket"),
                        *("-ubench", "-pbench", "ping"),
                    ]
                }
            },
            volumeMounts=[DATA],
        )
    ],
    spec={"securityContext": USER, "volumes": [EMPTY]},
    clients=_clients(images.SERVERS),
    version=["sh", "-c", "mariadbd --version | sed 's/.*Ver \\([^-]*\\).*/MariaDB \\1/'"],
    holds="the server speaks first; each row whose insertion was acknowledged is there once",
)
TOMCAT: Final = Entry(
    name="tomcat",
    title="Apache Tomcat (JVM)",
    images=[images.SERVERS],
    client=Counting,
    containers=[
        container(
            "tomcat",
            images.SERVERS,
            [
                *("sh", "-euc"),
                f"cd {PROGRAMS_PATH}; mkdir -p $CATALINA_BASE/conf $CATALINA_BASE/temp; "
                "cp server.xml /etc/tomcat10/web.xml $CATALINA_BASE/conf; "
                "mkdir -p $CATALINA_BASE/webapps/ROOT/WEB-INF; "
                "cp index.jsp $CATALINA_BASE/webapps/ROOT; "
                "cp web.xml $CATALINA_BASE/webapps/ROOT/WEB-INF; "
                "exec /usr/share/tomcat10/bin/catalina.sh run",
            ],
            env=[
                {"name": "CATALINA_HOME", "value": "/usr/share/tomcat10"},
                {"name": "CATALINA_BASE", "value": "/tmp/tomcat"},
                {"name": "JAVA_OPTS", "value": "-Xmx256m"},
            ],
        )
    ],
    version=[
        *("sh", "-c"),
        "echo Tomcat $(dpkg-query -W -f '${source:Upstream-Version}' tomcat10), "
        "OpenJDK $(java -version 2>&1 | sed -n '1s/.*\"\\(.*\\)\".*/\\1/p')",
    ],
    holds=COUNTED,
)
GUNICORN: Final = Entry(
    name="gunicorn",
    title="gunicorn, two workers of four threads",
    images=[images.SERVERS],
    client=functools.partial(Counting, processes=2, looks=False),
    containers=[
        container(
            "gunicorn",
            images.SERVERS,
            [
                *("gunicorn", "--chdir", PROGRAMS_PATH, "--workers", "2", "--threads", "4"),
                # It kills a worker that it has not heard of for so long: shorter than the sleep.
                *("--timeout", "3", "--keep-alive", "75", "--bind", "[::]:8080"),
                "wsgi:application",
            ],
        )
    ],
    version=["sh", "-c", "gunicorn --version | sed 's/[^0-9]*/gunicorn /; s/)//'"],
    holds=f"{COUNTED}; no worker was replaced, though the sleep is longer than their `--timeout`",
)
UVICORN: Final = Entry(
    name="uvicorn",
    title="uvicorn, two workers",
    images=[images.SERVERS],
    client=functools.partial(Counting, processes=2, looks=False),
    containers=[
        container(
            "uvicorn",
            images.SERVERS,
            [
                *("python3", "-m", "uvicorn", "--app-dir", PROGRAMS_PATH, "--workers", "2"),
                *("--host", "::", "--port", "8080", "--log-level", "warning"),
                *("--timeout-keep-alive", "75", "asgi:application"),
            ],
        )
    ],
    version=[
        "sh",
        "-c",
        "echo uvicorn $(dpkg-query -W -f '${source:Upstream-Version}' python3-uvicorn)",
    ],
    holds=f"{COUNTED}; no worker was replaced",
)
SIDECAR: Final = Entry(
    name="sidecar",
    title="A server behind nginx as its sidecar",
    images=[images.SERVERS],
    client=Counting,
    containers=[
        container(
            "sidecar",
            images.PYTHON,
            ["python3", "-u", f"{PROGRAMS_PATH}/threaded.py", "8081"],
            port=8081,
        ),
        container(
            "proxy",
            images.SERVERS,
            ["nginx", "-c", f"{PROGRAMS_PATH}/proxy.conf", "-g", "daemon off;"],
        ),
    ],
    version=["python3", "--version"],
    holds=f"{COUNTED}; the proxy keeps connections to the application over every sleep",
)
THREADS: Final = Entry(
    name="threads",
    title="A process with 500 threads",
    client=Counting,
    containers=[container("threads", images.PYTHON, _python("threads", "500"))],
    version=["python3", "--version"],
    holds="each thread tells the secret on its stack",
)
CROWD: Final = Entry(
    name="crowd",
    title=f"A process with {MANY:,} open connections",
    client=functools.partial(Crowd, connections=MANY),
    containers=[
        container("crowd", images.PYTHON, ["python3", "-u", f"{PROGRAMS_PATH}/crowd.py", "8080"])
    ],
    version=["python3", "--version"],
    holds="each connection is answered with its own number and its own count",
)
BIG: Final = Entry(
    name="big",
    title="A process with 4 GiB of memory",
    client=Counting,
    containers=[
        container(
            "big",
            images.PYTHON,
            _python("memory", str(BIG_MEBIBYTES)),
            # Probes wait while the image is written: so long it may not answer them.
            probe={"tcpSocket": {"port": 8080}, "failureThreshold": 60},
        )
    ],
    version=["python3", "--version"],
    holds="the checksum of all pages",
    is_long=True,
)
FILES: Final = Entry(
    name="files",
    title="A process with file locks and deleted open files",
    client=Counting,
    containers=[container("files", images.PYTHON, _python("files", "/tmp/files"))],
    version=["python3", "--version"],
    holds="locks (`flock`, POSIX, open file description) as others see them; deleted files, also a "
    "mapped one, have their content",
)
WATCHES: Final = Entry(
    name="watches",
    title="A process with inotify watches on its image's files and on a volume",
    client=Counting,
    containers=[
        container(
            "watches",
            images.PYTHON,
            _python("watches", "/tmp/watched", "/data/watched"),
            volumeMounts=[DATA],
        )
    ],
    spec={"volumes": [EMPTY]},
    version=["python3", "--version"],
    holds="new files and changes are told by the watches that were there before",
)
BIG_FILE: Final = Entry(
    name="big-file",
    title="A process with a deleted open file of 80 MiB",
    client=Counting,
    containers=[
        container("big-file", images.PYTHON, _python("big-deleted-file", "/tmp/upload", "80"))
    ],
    version=["python3", "--version"],
    holds=COUNTED,
    outcome=StaysAwake(
        reason="DeletedFile",
        is_managed=True,
        remedy="Close such files, or keep them with a name on a volume (an `emptyDir`) and remove "
        "them when they are done with: only what is deleted has to be part of the memory image.",
    ),
)
TERMINAL: Final = Entry(
    name="terminal",
    title="A process with a terminal (`tty: true`)",
    client=Counting,
    containers=[container("terminal", images.PYTHON, _python(), tty=True, stdin=True)],
    version=["python3", "--version"],
    holds=COUNTED,
    outcome=StaysAwake(
        reason="Tty",
        is_managed=False,
        remedy="Remove `tty: true`; `kubectl exec -it` has a terminal of its own, and needs none "
        "of the container's.",
    ),
)
INIT: Final = Entry(
    name="init",
    title="An image whose init insists on being PID 1",
    client=Counting,
    containers=[
        container(
            "init",
            images.PYTHON,
            ["/init", *_python()],
            volumeMounts=[{"name": "programs", "mountPath": "/init", "subPath": "init"}],
        )
    ],
    version=["python3", "--version"],
    holds=COUNTED,
    outcome=StaysAwake(
        reason="InitSystem",
        is_managed=False,
        remedy="Start the application itself (`command`), one in a container; or use an init that "
        "may have another PID, as `tini` and `dumb-init`.",
    ),
)

ALL: Final = (
    *(POSTGRESQL, VALKEY, NGINX, NODE, GO, THREADED),
    *(MARIADB, TOMCAT, GUNICORN, UVICORN, SIDECAR),
    *(THREADS, CROWD, BIG, FILES, WATCHES, BIG_FILE, TERMINAL, INIT),
)
