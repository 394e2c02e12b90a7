"""What was published and is not answered yet: by it is decided whom to read no further for a while."""

from tidings import limits


class Published:
    """Bytes that were published and are not answered yet, by connection, and who is not read because of them."""

    def __init__(self) -> None:
        self.paused: dict[int, None] = {}
        self._sizes: dict[int, dict[int, int]] = {}
        self._sums: dict[int, int] = {}

    def add(self, connection: int, number: int, size_bytes: int) -> list[int]:
        """Adds a batch; returns the connection if it is to be paused."""
        self.remove(connection, number)
        self._sizes.setdefault(connection, {})[number] = size_bytes
        self._sums[connection] = self._sums.get(connection, 0) + size_bytes
        if self._sums[connection] <= limits.CONNECTION_PENDING_BYTES_MAX or connection in self.paused:
            return []
        self.paused[connection] = None
        return [connection]

    def pause_all(self) -> list[int]:
        """Pauses everybody who has published; returns those who were not."""
        paused = [connection for connection in self._sums if connection not in self.paused]
        self.paused.update(dict.fromkeys(paused))
        return paused

    def remove(self, connection: int, number: int) -> None:
        """Takes an answered batch away."""
        size_bytes = self._sizes.get(connection, {}).pop(number, 0)
        if size_bytes:
            self._sums[connection] -= size_bytes

    def forget(self, connection: int) -> None:
        """Takes a connection away."""
        self._sums.pop(connection, None)
        self._sizes.pop(connection, None)
        self.paused.pop(connection, None)

    def resume(self) -> list[int]:
        """Returns those of the paused that have little waiting themselves, and takes them as read again."""
        half = limits.CONNECTION_PENDING_BYTES_MAX // 2
        resumed = [connection for connection in self.paused if self._sums.get(connection, 0) <= half]
        for connection in resumed:
            del self.paused[connection]
        return resumed
