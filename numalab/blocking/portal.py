"""One thread in which trio runs, and calls that other threads make into it and wait for."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, suppress
from typing import Generic, TypeVar

import trio

_T = TypeVar("_T")
_M = TypeVar("_M")


class Closed(RuntimeError):
    """The machine was closed, or its connection has ended: one sentence."""

    def __init__(self) -> None:
        super().__init__("This machine is closed: connect to it again.")


class Portal(Generic[_M]):
    """The thread; ``inner`` is what the async context manager in it gives.

    A call that is interrupted (KeyboardInterrupt) is cancelled, and others go on.  The thread ends
    with ``close``, and at the latest with the program.
    """

    def __init__(self, manager: Callable[[], AbstractAsyncContextManager[_M]]) -> None:
        """Returns when the block has been entered; raises what entering it raises."""
        self._opened: Future[_M] = Future()
        self._end = trio.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(
            target=self._work, args=(manager,), name="numalab.blocking", daemon=True
        )
        self._scope = trio.CancelScope()
        self._abandoned = False
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        atexit.register(self.close)
        self._thread.start()
        try:
            self.inner = self._opened.result()
        except BaseException:
            # Also an interrupt while a machine is being started: it must not stay behind.
            self._abandon()
            self._thread.join()
            atexit.unregister(self.close)
            raise

    def run(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """The result of the call, or what it raises.  Raises Closed."""
        result: Future[_T] = Future()
        scope = trio.CancelScope()

        async def carry_out() -> None:
            try:
                with scope:
                    result.set_result(await call())
            except Exception as error:
                result.set_exception(error)
            finally:
                # The connection ended, or nobody waits any more.
                if not result.done():
                    result.set_exception(Closed())

        self._soon(lambda nursery: nursery.start_soon(carry_out), result)
        try:
            return result.result()
        finally:
            if not result.done():
                with suppress(trio.RunFinishedError):
                    self._trio.run_sync_soon(scope.cancel)

    def close(self) -> None:
        """End the block and the thread; harmless if that has happened.  Raises what it raised."""
        with suppress(trio.RunFinishedError):
            self._trio.run_sync_soon(self._end.set)
        self._thread.join()
        atexit.unregister(self.close)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    @property
    def _trio(self) -> trio.lowlevel.TrioToken:
        assert self._token is not None
        return self._token

    def _soon(self, start: Callable[[trio.Nursery], None], result: Future[_T]) -> None:
        def begin() -> None:
            if self._nursery is None:
                result.set_exception(Closed())
            else:
                start(self._nursery)

        try:
            self._trio.run_sync_soon(begin)
        except trio.RunFinishedError:
            raise Closed from None

    def _abandon(self) -> None:
        # The thread looks at this after it has set the token: one of the two sees the other.
        self._abandoned = True
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._scope.cancel)

    def _work(self, manager: Callable[[], AbstractAsyncContextManager[_M]]) -> None:
        try:
            trio.run(self._serve, manager)
        except BaseException as error:
            if self._opened.done():
                self._failure = error
            else:
                self._opened.set_exception(error)
        if not self._opened.done():
            self._opened.set_exception(Closed())

    async def _serve(self, manager: Callable[[], AbstractAsyncContextManager[_M]]) -> None:
        self._token = trio.lowlevel.current_trio_token()
        if self._abandoned:
            return
        with self._scope:
            async with manager() as inner:
                try:
                    async with trio.open_nursery() as self._nursery:
                        self._opened.set_result(inner)
                        await self._end.wait()
                        self._nursery.cancel_scope.cancel()
                finally:
                    self._nursery = None
