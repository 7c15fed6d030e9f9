"""A ledger of the bytes that live at once while code runs on stand-ins for tensors, without torch.

A walk through a network follows its code line by line: what has a name is held until the name is bound anew or the
function returns, and what a module is called with until it returns. Counted are tensors, not what kernels ask for
themselves.
"""

from math import prod

FLOAT32 = 4
COMPLEX128 = 16


class Ledger:
    """The bytes that live now, and the most that ever did."""

    def __init__(self) -> None:
        self.live = 0
        self.peak = 0

    def new(self, *shape: int, itemsize: int = FLOAT32) -> "Held":
        """Return a stand-in for a new tensor; its bytes live until it is dropped."""
        return Held(self, shape, itemsize)

    def like(self, held: "Held", itemsize: int | None = None) -> "Held":
        """Return a stand-in for a new tensor of the same shape, and of the same type unless told."""
        return Held(self, held.shape, itemsize or held.itemsize)

    def cast(self, held: "Held", itemsize: int) -> "Held":
        """Return what `Tensor.to(dtype)` gives: the tensor itself where nothing changes."""
        return held if held.itemsize == itemsize else self.like(held, itemsize)

    def touch(self, num_bytes: int) -> None:
        """Let so many bytes more live for a moment."""
        self.peak = max(self.peak, self.live + num_bytes)

    def add(self, num_bytes: int) -> None:
        """Let so many bytes more live from now on, or fewer."""
        self.live += num_bytes
        self.peak = max(self.peak, self.live)


class Held:
    """A tensor's size. Its bytes are given back when the last reference to it goes."""

    __slots__ = ("_ledger", "itemsize", "shape")

    def __init__(self, ledger: Ledger, shape: tuple[int, ...], itemsize: int) -> None:
        self._ledger, self.shape, self.itemsize = ledger, shape, itemsize
        ledger.add(self.num_bytes)

    @property
    def num_bytes(self) -> int:
        """The bytes of the tensor."""
        return prod(self.shape) * self.itemsize

    def __del__(self) -> None:
        self._ledger.add(-self.num_bytes)
