"""The end of this machine: heard of, looked ahead to, and prepared for, by parts made here.

::

    lookout     hears of it
    survey      the node's pods, for whoever plans
    lookahead   tells what it would mean now
    evacuation  has done what the plan says, once it is announced
    marking     says so on the Node object
    reach       whether the object store answers, while it may be needed
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Final

from architect.daemon import status
from architect.daemon.evacuation.course import Told
from architect.daemon.evacuation.evacuation import Evacuation
from architect.daemon.evacuation.marking import Marking
from architect.daemon.host import Host
from architect.daemon.install import Layout
from architect.daemon.keeper_link import KeeperLink
from architect.daemon.metrics import Metrics
from architect.daemon.moves.wiring import Moves
from architect.daemon.notices import lookout
from architect.daemon.notices.board import Change
from architect.daemon.notices.notice import Notice
from architect.daemon.pods import ManagedPod
from architect.daemon.registry import Registry
from architect.daemon.settings import DaemonSettings
from architect.daemon.spot import lookahead
from architect.daemon.spot.inputs import Bounds
from architect.daemon.spot.lookahead import Lookahead
from architect.daemon.spot.page import Page
from architect.daemon.spot.rates import Known
from architect.daemon.spot.survey import Survey
from architect.daemon.store import PodStore
from architect.daemon.vault.reach import Reach
from architect.daemon.vault.service import Vault
from architect.kube import resources
from architect.kube.api import Api
from architect.kube.events import Note
from architect.kube.notes import Notes

NOTICES: Final = "notices.json"
"""Beside the keeper's socket: a reboot removes it."""


class MachineEnd:
    """What the daemon knows and does of it."""

    def __init__(
        self,
        config: DaemonSettings,
        *,
        api: Api,
        host: Host,
        layout: Layout,
        keeper: KeeperLink,
        store: PodStore,
        registry: Registry,
        metrics: Metrics,
        rates: Known,
        vault: Vault | None,
        moves: Moves,
        notes: Notes,
        tell: Callable[[ManagedPod, Note], None],
    ) -> None:
        self._config = config
        self._vault = vault
        self._notes = notes
        self._turns, self._storing = moves.turns, moves.storing
        self._lookout = lookout.open_lookout(
            config,
            api=api,
            metrics=metrics,
            told=self._announced,
            memory=layout.run / NOTICES,
            is_in_pod=host.is_entered,
        )
        self._survey = survey = Survey(
            store=store,
            registry=registry,
            depot=moves.depot,
            memory=keeper.memory,
            rates=rates.rates,
            bounds=self._bounds_at_notice,
            has_store=self._storing is not None,
            default_storage=config.store_default,
            is_stored=lambda uid: self._storing is not None and self._storing.is_stored(uid),
            is_store_reachable=lambda: self._reach is None or self._reach.is_there,
        )
        self._marking = Marking(api, node=config.node_name)
        self._evacuation = Evacuation(
            standing=self._lookout.standing,
            survey=survey,
            pods=store,
            departures=moves.departures,
            marking=self._marking,
            prefer=self._prefer,
            hurry=self._hurry,
            tell=self._planned,
        )
        self._lookahead = Lookahead(
            api,
            node=config.node_name,
            survey=survey,
            store=store,
            metrics=metrics,
            notice=lambda: lookahead.notice_of(config, self._lookout.machine),
            is_paused=self._evacuation.is_under_way,
            settled_seconds=lookahead.settled_seconds(config),
            tell=tell,
        )
        self._reach: Reach | None = None
        if vault is not None:
            self._reach = Reach(vault.look, is_wanted=self._may_end)

    def loops(self) -> dict[str, Callable[[threading.Event], None]]:
        """Return what runs in threads until its event is set; :meth:`close` comes after that."""
        loops: dict[str, Callable[[threading.Event], None]] = {
            "lookout": self._lookout.run,
            "lookahead": self._lookahead.run,
            "marking": self._marking.run,
            "evacuation": self._evacuation.run,
        }
        if self._reach is not None:
            loops["reach"] = self._reach.run
        return loops

    def close(self) -> None:
        """Have the loops end that wait for something."""
        if self._reach is not None:
            self._reach.close()
        self._lookout.close()
        self._lookahead.poke()
        self._evacuation.close()
        self._marking.close()

    def is_under_way(self) -> bool:
        """Whether pods are told to leave, or were by an earlier daemon, as far as is known."""
        return self._evacuation.is_under_way()

    def is_urgent(self) -> bool:
        """Whether it is near, or may come at any time: what is not stored by then is lost."""
        return self._evacuation.is_urgent

    def pods_have_changed(self) -> None:
        """Look ahead anew."""
        self._lookahead.poke()

    def page(self) -> Page:
        """Return the page of what it would mean now."""
        return Page(self._config.node_name, self._survey, notice=self._notice_seconds)

    def _announced(self, change: Change) -> None:
        """Tell what is announced about the machine, and have what follows from it done."""
        node = self._config.node_name
        self._notes.tell(resources.node(node, uid=node), status.of_notice(change))
        self._evacuation.announced(change)

    def _planned(self, notice: Notice, told: Told) -> None:
        node = self._config.node_name
        self._notes.tell(resources.node(node, uid=node), status.of_evacuation(notice, told))

    def _prefer(self, order: Sequence[str], at_once: int | None) -> None:
        """Have pods captured and sent in this *order*; an empty one: there is time again."""
        self._turns.prefer(order, at_once=at_once)
        if self._storing is not None:
            self._storing.prefer(order)

    def _hurry(self, is_needed: bool) -> None:
        if self._storing is not None:
            self._storing.hurry(is_needed=is_needed)
        if self._reach is not None:
            self._reach.hurry(is_needed)

    def _bounds_at_notice(self) -> Bounds:
        captures = self._config.max_concurrent_captures
        if self._vault is None:
            return Bounds(captures=captures)
        return Bounds(captures=captures, objects=self._vault.objects_at_notice())

    def _may_end(self) -> bool:
        """Whether this machine may be taken back, or is."""
        notice = lookahead.notice_of(self._config, self._lookout.machine)
        return notice is not None or self._evacuation.is_urgent

    def _notice_seconds(self) -> float:
        """Return what a plan is made for: what is left of this machine, or else its notice."""
        left = self._lookout.seconds_left
        if math.isfinite(left):
            return left
        machine = self._lookout.machine
        return self._config.spot_notice_seconds if machine is None else machine.notice_seconds
