"""What a step found: numbers that are on their way from the device while the host goes on."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor


class Told(Mapping[str, float]):
    """Numbers by name. The first look waits for them, but not for what the device is told meanwhile.

    finish: called once with what arrived; what it returns is what is told.
    """

    def __init__(self, values: Mapping[str, Tensor], finish: Callable[[dict[str, float]], dict[str, float]]) -> None:
        names, joined = list(values), torch.stack([value.float() for value in values.values()])
        copy = joined.to("cpu", non_blocking=True)
        copied = torch.cuda.Event() if joined.is_cuda else None  # type: ignore[no-untyped-call]
        if copied is not None:
            copied.record(torch.cuda.current_stream(joined.device))

        def arrive() -> dict[str, float]:
            if copied is not None:
                copied.synchronize()
            return finish(dict(zip(names, copy.tolist())))

        self._arrive: Callable[[], dict[str, float]] | None = arrive
        self._found: dict[str, float] = {}

    def look(self) -> dict[str, float]:
        """The numbers, once they have arrived."""
        if self._arrive is not None:
            self._found = self._arrive()
            self._arrive = None  # nothing of the step is held any longer
        return self._found

    def __getitem__(self, name: str) -> float:
        return self.look()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.look())

    def __len__(self) -> int:
        return len(self.look())
