"""A loader's batches made ahead in a thread, so that a GPU need not wait for them; the order is the loader's."""

import threading
from collections.abc import Iterator, Mapping
from queue import Queue
from typing import Any

import torch

from pronk.data.batch import Batch
from pronk.data.loader import Loader

Made = tuple[Batch | None, dict[str, Any]]  # a batch, None at the end, and the loader's state after it


class Ahead:
    """A source that gives what `loader` gives; its state is that of the last batch handed out, not of those in wait.

    depth: batches that wait. pin: put them where a GPU's copies need not wait for the host (needs CUDA).
    """

    border = True  # it may be saved after any batch

    def __init__(self, loader: Loader, depth: int = 2, pin: bool = True) -> None:
        self.loader, self.depth, self.pin = loader, depth, pin
        self._state = loader.state()

    def __iter__(self) -> Iterator[Batch]:
        """Batches from where the state stands. A new iteration drops what waits of the last one."""
        self.loader.restore(self._state)
        waiting: Queue[Made | BaseException] = Queue(self.depth)
        ended = threading.Event()
        maker = threading.Thread(target=self._make, args=(waiting, ended), daemon=True)
        maker.start()
        try:
            while True:
                made = waiting.get()
                if isinstance(made, BaseException):
                    raise made
                batch, self._state = made
                if batch is None:
                    return
                yield batch
        finally:
            ended.set()
            while maker.is_alive():  # it may stand before a full queue
                while not waiting.empty():
                    waiting.get()
                maker.join(0.01)

    def tell(self, metrics: object) -> None:
        """Data does not listen to training."""

    def state(self) -> dict[str, Any]:
        return self._state

    def restore(self, state: Mapping[str, Any]) -> None:
        """As Loader.restore; meant for before the iteration."""
        self.loader.restore(state)
        self._state = self.loader.state()

    def _make(self, waiting: "Queue[Made | BaseException]", ended: threading.Event) -> None:
        try:
            for batch in self.loader:
                waiting.put((batch.map(torch.Tensor.pin_memory) if self.pin else batch, self.loader.state()))
                if ended.is_set():
                    return
            waiting.put((None, self.loader.state()))
        except BaseException as error:  # the one who asks for the next batch must hear of it
            waiting.put(error)
