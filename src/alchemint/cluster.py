"""A Ray cluster to work on: joined for as long as it is needed, and left again."""

import importlib.util
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def require_ray() -> None:
    """Raise ValueError when the package ray is missing."""
    if importlib.util.find_spec("ray") is None:
        raise ValueError("--ray needs the package ray; install it with pip install 'alchemint[cluster]'")


@contextmanager
def joined(address: str) -> Iterator[Any]:
    """Join the Ray cluster at `address` ("local": this machine, "auto": found) and give the package ray.

    One that was joined before is used and stays joined. Raises ValueError when ray is missing or no cluster answers.
    """
    require_ray()
    import ray

    began = not ray.is_initialized()
    if began:
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False, include_dashboard=False if address == "local" else None)
        except OSError as error:
            raise ValueError(f"no Ray cluster at {address}: {error}") from None
    try:
        yield ray
    finally:
        if began:
            ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError when nobody listens at host:port; Ray itself would go on trying for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()
