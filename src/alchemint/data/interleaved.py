"""Several datasets as one, taken in turn."""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset


class Interleaved(Dataset[Any]):
    """Item i is item i // n of dataset i % n, of n datasets of one length."""

    def __init__(self, datasets: Sequence[Dataset[Any]]) -> None:
        self._datasets = datasets

    def __len__(self) -> int:
        return len(self._datasets) * len(self._datasets[0])  # type: ignore[arg-type]

    @property
    def heaviest(self) -> int | None:
        """Number of the item that needs the most memory, where the first dataset tells its own."""
        number: int | None = getattr(self._datasets[0], "heaviest", None)
        return None if number is None else number * len(self._datasets)

    def __getitem__(self, number: int) -> Any:
        return self._datasets[number % len(self._datasets)][number // len(self._datasets)]
