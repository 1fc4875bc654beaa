"""Places of labgrid's coordinator
================================

Acquires a place, or waits for one and says who has it; returns it at the end. The coordinator is
asked over short sessions: it may be restarted while a host is at work, and may then have forgotten
who had what.

labgrid 26.0 has no authentication: whoever reaches the coordinator may take and release any place.
"""

import asyncio
import getpass
import logging
import os
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
from labgrid.remote.client import ClientSession, Error
from labgrid.remote.common import Place, Reservation, ReservationState
from labgrid.remote.generated import labgrid_coordinator_pb2 as messages
from labgrid.util.proxy import proxymanager

from kvmtest.errors import EnvironmentUnfit, UsageError, printable

__all__ = ["DEFAULT_ADDRESS", "Exported", "HeldPlace", "Places"]

DEFAULT_ADDRESS = "127.0.0.1:20408"

# Seconds: between two questions about a reservation, which is forgotten after 60 s without one;
# for the coordinator to answer; and for one that is restarted to be back.
_POLL_S = 5.0
_ANSWER_S = 15.0
_RETURN_S = 120.0
_PAUSE_S = 1.0
# Seconds in which a coordinator that is back is reached, too.
_SETTLED_S = 5.0

T = TypeVar("T")
OnText = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Exported:
    """A resource that an exporter offers at a place."""

    name: str
    kind: str
    """The name of its class in labgrid."""

    arguments: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HeldPlace:
    """A place that is ours, and what is exported there."""

    name: str
    resources: Sequence[Exported]


@dataclass(frozen=True)
class Places:
    """The places of one coordinator, for one ``owner``, such as a host of a fleet's folder.

    The coordinator knows owners as HOST/USER; ours is this machine and user, with ``owner`` behind
    it. A place that the same owner holds already, as its process was killed, is taken up again.
    ``on_step`` gets a line before each wait.
    """

    address: str
    owner: str
    on_step: OnText

    @property
    def user(self) -> str:
        """How the coordinator calls the owner, behind the name of this machine."""
        return f"{os.environ.get('LG_USERNAME') or getpass.getuser()}+{self.owner}"

    def acquire(self, name: str, deadline: float) -> HeldPlace:
        """Acquire a place by its name; wait ``deadline`` seconds for whoever has it.

        Raises UsageError where there is no such place, EnvironmentUnfit with the one that has it.
        """
        return self._patiently(lambda session: self._acquired(session, name, deadline), deadline)

    async def _acquired(self, session: "_Session", name: str, deadline: float) -> HeldPlace:
        if name not in session.places:
            known = ", ".join(sorted(session.places)) or "none"
            raise UsageError(f"the coordinator has no place {name!r} (it has: {known})")
        until, told = time.monotonic() + deadline, ""
        while True:
            place = session.places.get(name)
            if place is not None and place.acquired == session.owner:
                return session.held(place)
            holder = _holder(place) or await session.take(name)
            if not holder:
                continue
            if holder != told:
                self.on_step(f"{name}: waiting for {holder}, who has it")
                told = holder
            if time.monotonic() >= until:
                raise EnvironmentUnfit(
                    f"{name}: {holder} has this place; wait for its release, or ask its owner"
                )
            await session.change(min(_POLL_S, until - time.monotonic()))

    def reserve(self, tags: Mapping[str, str], deadline: float) -> HeldPlace:
        """Acquire any place with these tags, in the order in which people ask for them.

        Waits and raises as ``acquire``.
        """
        wanted = ", ".join(f"{key}={value}" for key, value in tags.items())

        async def work(session: _Session) -> HeldPlace:
            mine = [each for each in session.places.values() if each.acquired == session.owner]
            fitting = [each for each in session.places.values() if _fits(each, tags)]
            for place in mine:
                if place in fitting:
                    return session.held(place)
            if not fitting:
                raise UsageError(f"the coordinator has no place with the tags {wanted}")
            token = await session.reservation(tags)
            try:
                return await self._allocated(session, token, wanted, fitting, deadline)
            finally:
                # The place stays acquired without it, and nobody else's turn comes later for it.
                await session.cancel(token)

        return self._patiently(work, deadline)

    async def _allocated(
        self,
        session: "_Session",
        token: str,
        wanted: str,
        fitting: Sequence[Place],
        deadline: float,
    ) -> HeldPlace:
        until, told = time.monotonic() + deadline, False
        while True:
            reservation = await session.poll(token)
            if reservation.state is ReservationState.allocated:
                ((name,),) = reservation.allocations.values()
                if not await session.take(name):
                    return session.held(session.places[name])
            holders = sorted({_holder(each) for each in fitting} - {""})
            if not told:
                who = ", ".join(holders) or "others in the queue"
                self.on_step(f"{wanted}: waiting for a place; {who} have them")
                told = True
            if time.monotonic() >= until:
                raise EnvironmentUnfit(
                    f"{wanted}: no place is free ({', '.join(holders) or 'others wait for them'}); "
                    "wait for a release, or ask for fewer tags"
                )
            await session.change(min(_POLL_S, max(0.1, until - time.monotonic())))

    def hold(self, held: HeldPlace) -> None:
        """See to it that a place is still ours: a coordinator that was restarted has forgotten.

        Raises EnvironmentUnfit where somebody else has it now. A coordinator that is away is let
        be: it gives the place to nobody.
        """
        try:
            # gRPC may remember for a second or two that an earlier channel of this process failed.
            self._patiently(
                lambda session: self._acquired(session, held.name, 0.0), _SETTLED_S, met=True
            )
        except CoordinatorAway as error:
            self.on_step(f"{held.name}: {error}; going on without it")

    def release(self, held: HeldPlace) -> None:
        """Return a place; one that is ours no more is let be.

        A coordinator that is being restarted is waited for. Raises EnvironmentUnfit where it stays
        away.
        """

        async def work(session: _Session) -> None:
            await session.release(held.name)

        self._patiently(work, _RETURN_S, met=True)

    def _patiently(
        self,
        work: "Callable[[_Session], Coroutine[Any, Any, T]]",
        deadline: float,
        *,
        met: bool = False,
    ) -> T:
        """Do work again where the coordinator goes away amid it, until it is back.

        One that was never ``met`` is not waited for.
        """
        until = time.monotonic() + min(deadline, _RETURN_S)

        async def noting(session: "_Session") -> T:
            nonlocal met
            met = True
            return await work(session)

        while True:
            try:
                return self._run(noting)
            except CoordinatorAway:
                if not met or time.monotonic() >= until:
                    raise
                time.sleep(_PAUSE_S)

    def _run(self, work: "Callable[[_Session], Coroutine[Any, Any, T]]") -> T:
        """Do work in a session of its own."""

        async def whole() -> T:
            address = proxymanager.get_grpc_address(self.address, default_port=20408)
            session = _Session(address, asyncio.get_running_loop(), user=self.user)
            try:
                await session.begin()
                return await work(session)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    raise CoordinatorAway.at(self.address) from None
                raise EnvironmentUnfit(f"labgrid: {printable(str(error.details()))}") from None
            finally:
                await session.finish()

        # labgrid logs, beside what it raises, what the caller is told by an exception.
        with _quiet_logging():
            return asyncio.run(whole())


class CoordinatorAway(EnvironmentUnfit):
    """The coordinator can't be reached."""

    @classmethod
    def at(cls, address: str) -> "CoordinatorAway":
        """Return the error about one at an address."""
        return cls(
            f"labgrid's coordinator at {address} does not answer; start it, or give the plan's "
            "coordinator"
        )


class _Session(ClientSession):
    """A client of the coordinator that hears of changes of places."""

    def __init__(self, address: str, loop: asyncio.AbstractEventLoop, *, user: str) -> None:
        super().__init__(address, loop)
        self._user = user
        self._changed = asyncio.Event()

    def getuser(self) -> str:
        return self._user

    @property
    def owner(self) -> str:
        return f"{self.gethostname()}/{self.getuser()}"

    async def begin(self) -> None:
        """Connect; the places are known afterwards."""
        try:
            await asyncio.wait_for(self.start(), _ANSWER_S)
        except (TimeoutError, Error):
            raise CoordinatorAway.at(self.address) from None

    async def finish(self) -> None:
        """Disconnect; what is acquired stays so."""
        if self.pump_task is not None:
            self.stopping.set()
            await self.stop()
        await self.close()

    async def on_place_changed(self, place: object) -> None:
        await super().on_place_changed(place)
        self._changed.set()

    async def on_place_deleted(self, name: str) -> None:
        await super().on_place_deleted(name)
        self._changed.set()

    async def change(self, seconds: float) -> None:
        """Wait until a place changes, or for some seconds; raises CoordinatorAway."""
        self._changed.clear()
        if seconds > 0:
            changed = asyncio.ensure_future(self._changed.wait())
            gone = asyncio.ensure_future(self.stopping.wait())
            await asyncio.wait(
                (changed, gone), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            changed.cancel()
            gone.cancel()
        if self.stopping.is_set():
            raise CoordinatorAway.at(self.address)

    async def take(self, name: str) -> str:
        """Acquire a place; return "" where it is ours now, or who was faster."""
        try:
            await self.stub.AcquirePlace(messages.AcquirePlaceRequest(placename=name))
        except grpc.aio.AioRpcError as error:
            refusals = (
                grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.PERMISSION_DENIED,
            )  # fmt: skip
            if error.code() not in refusals:
                raise
            await self.sync_with_coordinator()
            return _holder(self.places.get(name)) or printable(str(error.details()))
        await self.sync_with_coordinator()
        return ""

    async def release(self, name: str) -> None:
        await self.stub.ReleasePlace(
            messages.ReleasePlaceRequest(placename=name, fromuser=self.owner)
        )

    async def reservation(self, tags: Mapping[str, str]) -> str:
        filters = {"main": messages.Reservation.Filter(filter=dict(tags))}
        request = messages.CreateReservationRequest(filters=filters, prio=0.0)
        return str((await self.stub.CreateReservation(request)).reservation.token)

    async def poll(self, token: str) -> Reservation:
        request = messages.PollReservationRequest(token=token)
        found = (await self.stub.PollReservation(request)).reservation
        return Reservation.from_pb2(found)

    async def cancel(self, token: str) -> None:
        await self.stub.CancelReservation(messages.CancelReservationRequest(token=token))

    def held(self, place: Place) -> HeldPlace:
        """Return a place of ours with what is exported there."""
        try:
            found = self.get_target_resources(place)
        except Error as error:
            raise EnvironmentUnfit(f"labgrid: {error}; see to its exporter") from None
        return HeldPlace(
            place.name,
            tuple(
                Exported(name, kind, dict(entry.args), dict(entry.extra))
                for (name, kind), entry in found.items()
            ),
        )


def _holder(place: Place | None) -> str:
    """Return who has a place, as it can be shown; "" where nobody does."""
    return printable(str(place.acquired or "")) if place is not None else ""


def _fits(place: Place, tags: Mapping[str, str]) -> bool:
    # The coordinator counts the name as a tag (schedule_reservations).
    return ({**place.tags, "name": place.name}).items() >= tags.items()


@contextmanager
def _quiet_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        root.setLevel(before)
