"""Text from ids as they come: whole characters only, watching for stop strings across token borders."""

from collections.abc import Callable, Sequence

Decode = Callable[[list[int]], str]
BROKEN = "\ufffd"  # what decoders give for half a character
WINDOW = 16  # ids decoded again at each step; the rest is settled


def cut(text: str, stops: Sequence[str]) -> str:
    """text up to the first stop string."""
    places = [place for place in map(text.find, stops) if place >= 0]
    return text[: min(places)] if places else text


class TextStream:
    """push ids, take text. Half a character and what may be the beginning of a stop string are held back."""

    def __init__(self, decode: Decode, stops: Sequence[str] = ()) -> None:
        self.decode, self.stops = decode, tuple(stops)
        self.text, self.stopped = "", False
        self._ids: list[int] = []
        self._start = 0  # the window decoded at each step is ids[start:]; tokens before lend it context
        self._told = 0  # characters of the window that are in text
        self._taken = 0  # characters of text that were handed out

    def push(self, ids: Sequence[int], final: bool = False) -> None:
        """Add ids; final says that none will follow, so nothing need be held back."""
        self._ids.extend(ids)
        window = self.decode(self._ids[self._start :])
        whole = window if final else window.rstrip(BROKEN)
        self._append(whole[self._told :])
        self._told = len(whole)
        if len(whole) == len(window) and len(self._ids) - self._start > WINDOW:
            self._start = len(self._ids) - WINDOW // 2
            self._told = len(self.decode(self._ids[self._start :]))

    def _append(self, piece: str) -> None:
        if self.stopped or not piece:
            return
        longest = max(map(len, self.stops), default=1)
        settled = max(0, len(self.text) - longest + 1)  # no stop string begins before this
        recent = self.text[settled:] + piece
        kept = cut(recent, self.stops)
        self.text = self.text[:settled] + kept
        self.stopped = len(kept) < len(recent)

    def take(self, final: bool = False) -> str:
        """The text that can be shown and was not taken yet."""
        end = len(self.text) - (0 if final or self.stopped else self._doubtful())
        piece = self.text[self._taken : end]
        self._taken += len(piece)
        return piece

    def _doubtful(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        lengths = (n for stop in self.stops for n in range(1, len(stop)) if self.text.endswith(stop[:n]))
        return max(lengths, default=0)
