"""All that a reset of the simulator throws away."""

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from testkit.indodana.books import Books
from testkit.indodana.credentials import Credentials
from testkit.indodana.faults import Faults


class State:
    """A request works on the state it arrived in, so no request sees the state both before and after a reset."""

    def __init__(
        self,
        merchants: Mapping[str, tuple[str, str]],
        clock: Callable[[], float],
        seed: int,
        nonce_window_seconds: float | None,
    ) -> None:
        self.credentials = Credentials(merchants)
        self.nonce_window_seconds = nonce_window_seconds
        self.books = Books(self.now)
        self.faults = Faults(seed)
        # Set when held answers are to end.
        self.released = threading.Event()
        self._clock = clock
        for merchant_id in merchants:
            self.books.add_default_orders(merchant_id)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def authenticate(self, authorization: str | None) -> str:
        """The merchant who signed. Raises a RefusalError of 401 if none did."""
        return self.credentials.authenticate(authorization, self._clock(), self.nonce_window_seconds)
