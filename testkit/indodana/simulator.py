"""A simulator of Indodana's QRIS merchant API that keeps books of the money it moves and fails on demand.

    python -m testkit.indodana --host 127.0.0.1 --port 9001 --upstream-port 9002

It has two listeners. `control_url` serves the control API under `/_simulator` and Indodana's API, and is always open.
`upstream_url` serves Indodana's API alone; the fault `refuse_connections` closes it.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

from testkit.indodana.control_api import ControlApi
from testkit.indodana.credentials import NONCE_WINDOW_SECONDS
from testkit.indodana.faults import REFUSE_CONNECTIONS, Fault
from testkit.indodana.handler import OnRequest
from testkit.indodana.listener import Listener
from testkit.indodana.state import State

LOCAL_MERCHANTS = {"m1": ("local-m1-key", "local-m1-secret"), "m2": ("local-m2-key", "local-m2-secret")}


def merchant_secrets(prefix: str, merchants: Mapping[str, tuple[str, str]] = LOCAL_MERCHANTS) -> dict[str, str]:
    """The secrets that the gateway reads the merchants' keys from, by name."""
    return {
        f"{prefix}{merchant}": json.dumps({"apiKey": api_key, "secretKey": secret_key})
        for merchant, (api_key, secret_key) in merchants.items()
    }


class Simulator:
    """Both listeners, and the state that they serve.

    A port of 0 picks a free one, which is kept over stop() and start(). A `nonce_window_seconds` of None accepts
    every nonce. `seed` decides which requests a fault with a probability hits.
    """

    def __init__(
        self,
        merchants: Mapping[str, tuple[str, str]] = LOCAL_MERCHANTS,
        host: str = "127.0.0.1",
        port: int = 0,
        upstream_port: int = 0,
        *,
        seed: int = 0,
        nonce_window_seconds: float | None = NONCE_WINDOW_SECONDS,
        clock: Callable[[], float] = time.time,
        on_request: OnRequest = lambda _request, _seconds: None,
    ) -> None:
        self._new_state = partial(State, dict(merchants), clock, seed, nonce_window_seconds)
        self.state = self._new_state()
        self._control = Listener(host, port, lambda: self.state, ControlApi(self).answer, on_request)
        self._upstream = Listener(host, upstream_port, lambda: self.state, on_request=on_request)
        # Guards the listeners and the timers, and the decision whether the upstream listener is to be open.
        self._lock = threading.RLock()
        self._running = False
        self._timers: list[threading.Timer] = []

    @property
    def control_url(self) -> str:
        return self._control.url

    @property
    def upstream_url(self) -> str:
        return self._upstream.url

    def start(self) -> Self:
        with self._lock:
            self._running = True
            self.state.released.clear()
            try:
                self._control.open()
                self._follow_faults()
            except OSError:  # a port is taken
                self.stop()
                raise
        return self

    def stop(self) -> None:
        with self._lock:
            self._running = False
            self._cancel_timers()
            self.state.released.set()
            self._upstream.close()
        # Not under the lock: a control request that is being answered may be waiting for it.
        self._control.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def reset(self) -> None:
        """Set everything back to the start: books, orders, faults, settings, credentials. Held answers are dropped."""
        with self._lock:
            before, self.state = self.state, self._new_state()
            before.released.set()
            self._cancel_timers()
            self._follow_faults()

    def add_fault(self, state: State, body: Mapping[str, Any]) -> Fault:
        """Raises an InvalidFieldError for a body that describes no fault."""
        fault = state.faults.add(body)
        if fault.fault == REFUSE_CONNECTIONS:
            with self._lock:
                self._follow_faults()
                if fault.seconds is not None and self._running:
                    timer = threading.Timer(fault.seconds, self.remove_fault, (state, fault.id))
                    timer.daemon = True
                    self._timers.append(timer)
                    timer.start()
        return fault

    def remove_fault(self, state: State, fault_id: str) -> bool:
        found = state.faults.remove(fault_id)
        self._follow_faults()
        return found

    def clear_faults(self, state: State) -> None:
        state.faults.clear()
        self._follow_faults()

    def _follow_faults(self) -> None:
        """Open or close the upstream listener, as the faults require."""
        with self._lock:
            if not self._running:
                return
            if self.state.faults.refuses_connections():
                self._upstream.refuse()
            else:
                self._upstream.open()

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
