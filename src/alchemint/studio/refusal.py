"""What the studio answers when it does not do what it was asked for."""


class RefusalError(Exception):
    """A request that is not carried out: its HTTP status, and one line for each fault."""

    def __init__(self, status: int, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.status = status
        self.faults = faults
