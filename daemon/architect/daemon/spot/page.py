"""``/spot/plan``: what would be saved of this node, for whoever asks.

Anybody who reaches the port may ask, as for metrics, and what is told is names and sizes. A plan
keeps a core busy for a moment, so they are made one at a time with a rest behind each, and no more
than a few who ask wait.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs

from architect.core.errors import ArchitectError
from architect.daemon.metrics import Answer
from architect.daemon.spot import document, outlook, planner, remedies, table
from architect.daemon.spot.need import need
from architect.daemon.spot.survey import Survey

log = logging.getLogger(__name__)

PATH: Final = "/spot/plan"
TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"

REST: Final = 3.0
"""How many times as long as a plan took none is made."""
MOST_WAITING: Final = 4
MOST_SECONDS: Final = 86_400.0


class Page:
    """Of one node. Safe to use from several threads."""

    def __init__(self, node: str, survey: Survey, *, notice: Callable[[], float]) -> None:
        """*notice* tells the seconds that are planned with unless it is asked for others."""
        self._node = node
        self._survey = survey
        self._notice = notice
        self._places = threading.BoundedSemaphore(MOST_WAITING)
        self._turn = threading.Lock()

    def __call__(self, query: str) -> Answer:
        """Answer ``deadline=SECONDS&output=text|json``, both of which may be left out."""
        try:
            seconds, is_json = self._asked(query)
        except ValueError as error:
            return _said(400, str(error))
        if not self._places.acquire(blocking=False):
            return _said(503, "others are asking for a plan: ask again")
        try:
            with self._turn:
                began = time.thread_time()
                answer = self._plan(seconds, is_json=is_json)
                time.sleep(REST * (time.thread_time() - began))
                return answer
        except (ArchitectError, OSError) as error:
            return _said(503, f"no plan: {error}")
        finally:
            self._places.release()

    def _asked(self, query: str) -> tuple[float, bool]:
        given = parse_qs(query, keep_blank_values=True)
        if strange := given.keys() - {"deadline", "output"}:
            raise ValueError(f"{min(strange):.40} is not known; deadline and output are")
        output = given.get("output", ["text"])[-1]
        if output not in ("text", "json"):
            raise ValueError(f"output {output:.40} is not text or json")
        text = given.get("deadline", [""])[-1]
        if not text:
            return self._notice(), output == "json"
        seconds = float(text) if len(text) <= 20 else math.nan
        if not 0 <= seconds <= MOST_SECONDS:
            raise ValueError(f"deadline {text:.40} is not a number of seconds, 0 to 86400")
        return seconds, output == "json"

    def _plan(self, seconds: float, *, is_json: bool) -> Answer:
        request = self._survey.request(outlook.deadline(seconds))
        plan = planner.plan(request)
        found = (self._node, request, plan, need(request), remedies.remedies(request, plan))
        if is_json:
            value = {**document.of_plan(*found), "table": table.text(*found)}
            return Answer(200, JSON, json.dumps(value).encode() + b"\n")
        return Answer(200, TEXT, table.text(*found).encode())


def _said(status: int, text: str) -> Answer:
    return Answer(status, TEXT, f"{text}\n".encode())
