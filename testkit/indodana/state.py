"""All that a reset of the simulator throws away."""

import threading
from collections.abc import Callable, Mapping

from testkit.indodana.books import Books
from testkit.indodana.clock import Clock
from testkit.indodana.credentials import Credentials
from testkit.indodana.faults import Faults


class State:
    """A request works on the state it arrived in, so no request sees the state both before and after a reset."""

    def __init__(
        self,
        merchants: Mapping[str, tuple[str, str]],
        real_time: Callable[[], float],
        seed: int,
        nonce_window_seconds: float | None,
    ) -> None:
        self.credentials = Credentials(merchants)
        self.nonce_window_seconds = nonce_window_seconds
        self.clock = Clock(real_time)
        self.books = Books(self.clock.now)
        self.faults = Faults(seed)
        # Set when held answers are to end.
        self.released = threading.Event()
        for merchant_id in merchants:
            self.books.add_default_orders(merchant_id)

    def authenticate(self, authorization: str | None) -> str:
        """The merchant who signed. Raises a RefusalError of 401 if none did."""
        now = self.clock.real_seconds()
        return self.credentials.authenticate(authorization, now, self.nonce_window_seconds)
