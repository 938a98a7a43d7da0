"""What is looked at again and again goes on, whatever happens to it or to another."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from architect.operator.rounds import Round, repeat


def test_one_that_fails_comes_again_and_one_that_hangs_holds_up_nobody(caplog) -> None:
    hangs, seen, failures = threading.Event(), {"failing": 0, "well": 0}, list[str]()

    def failing() -> None:
        seen["failing"] += 1
        raise KeyError("a defect")

    def well() -> None:
        seen["well"] += 1

    async def work() -> None:
        stop = asyncio.Event()
        with ThreadPoolExecutor(1) as own:
            rounds = [
                Round(what="this", look=failing),
                Round(what="that", look=well),
                Round(what="the store", look=hangs.wait, threads=own),
            ]
            tasks = [
                asyncio.create_task(
                    repeat(one, stop, seconds=0.01, failed=lambda: failures.append("one"))
                )
                for one in rounds
            ]
            while min(seen.values()) < 3:
                await asyncio.sleep(0.01)
            stop.set()
            hangs.set()
            await asyncio.gather(*tasks)

    asyncio.run(asyncio.wait_for(work(), 60))
    assert len(failures) == seen["failing"]
    assert "the look at this failed" in caplog.text
    assert "a defect" in caplog.text


def test_one_may_come_more_often_than_the_others() -> None:
    seen = {"often": 0, "seldom": 0}

    def look(name: str) -> None:
        seen[name] += 1

    async def work() -> None:
        stop = asyncio.Event()
        rounds = [
            Round(what="often", look=lambda: look("often"), seconds=0.01),
            Round(what="seldom", look=lambda: look("seldom")),
        ]
        tasks = [
            asyncio.create_task(repeat(one, stop, seconds=3600, failed=lambda: None))
            for one in rounds
        ]
        while seen["often"] < 3 or not seen["seldom"]:
            await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*tasks)

    asyncio.run(asyncio.wait_for(work(), 60))
    assert seen["seldom"] == 1
