"""A server that keeps thousands of connections and knows each of them.

    python3 crowd.py PORT

``/count`` and ``/state`` are answered as counting.py says. ``/mine`` tells the number that the
connection got when it was made, and how often it was asked for on it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import resource
import sys

import counting

numbers = itertools.count(1)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection."""
    number, asked = next(numbers), 0
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            if path == "/mine":
                asked += 1
                body = json.dumps([number, asked]).encode()
            else:
                body = counting.answer(path)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    """Serve for ever."""
    server = await asyncio.start_server(serve, None, int(sys.argv[1]), backlog=4096)
    await server.serve_forever()


_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
asyncio.run(main())
