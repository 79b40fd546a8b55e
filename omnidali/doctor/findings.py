"""What a check finds: lines for people, each with its weight, and facts for programs."""

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

GOOD = "good"
NOTE = "note"  # worth knowing, or a limit that is expected
BAD = "bad"  # something is broken

Emit = Callable[[dict], None]


@dataclass(frozen=True)
class Context:
    """What a check is given.

    Attributes:
        scratch: a folder for its files, which other checks share.
        device_id: CUDA device, or None: DALI's CPU operators stand in for the GPU's.
        seconds: that the check may take.
        quick: whether to look at a few examples only.
        folders: that the user wants to be looked at.
        done: cases that an earlier process of the same check has begun.
    """

    scratch: str
    device_id: int | None = None
    seconds: float = 60.0
    quick: bool = False
    folders: tuple[str, ...] = ()
    done: tuple[str, ...] = ()


@dataclass
class Findings:
    """Takes what a check finds, and passes it on at once: what was found survives a crash.

    Args:
        context: of the check.
        emit: takes each message, a dict that JSON can hold.

    Attributes:
        facts: all that were noted.
    """

    context: Context
    emit: Emit
    facts: dict[str, object] = field(default_factory=dict)
    _begun: float = field(default_factory=time.monotonic)

    @property
    def seconds_left(self) -> float:
        """Of the time that the check may take; below 0 once it is over."""
        return self.context.seconds - (time.monotonic() - self._begun)

    def good(self, text: str) -> None:
        """Something works."""
        self._say(GOOD, text)

    def note(self, text: str) -> None:
        """Something is worth knowing, or a limit that is expected."""
        self._say(NOTE, text)

    def bad(self, text: str) -> None:
        """Something is broken."""
        self._say(BAD, text)

    def error(self, name: str, error: Exception, is_sure: bool = True) -> None:
        """A case has failed.

        Args:
            name: of the case.
            error: that it raised.
            is_sure: whether it has to work; else its failure is only worth knowing.
        """
        self._say(BAD if is_sure else NOTE, f"{name}: {reason_of(error)}")
        self.fact(name, {"error": reason_of(error)})
        self.emit({"traceback": traceback_of(error)})

    def fact(self, name: str, value: object) -> None:
        """Keep a value, which JSON can hold, for programs."""
        self.facts[name] = value
        self.emit({"fact": name, "value": value})

    def cases(self, names: Iterable[str], reserve: float = 2.0) -> Iterator[str]:
        """Yield the cases that are still to be looked at, while there is time.

        If a case crashes its process or hangs, the check goes on with the next case in another one.

        Args:
            names: each is unique within the check.
            reserve: seconds that a case may take.
        """
        wanted = [name for name in names if name not in self.context.done]
        for place, name in enumerate(wanted):
            if self.seconds_left < reserve:
                self.note(f"out of time: {len(wanted) - place} cases were not looked at")
                break
            self.emit({"case": name})
            yield name
        self.emit({"case": ""})

    def _say(self, level: str, text: str) -> None:
        self.emit({"level": level, "text": text})


def traceback_of(error: Exception) -> str:
    """The end of an error's traceback."""
    return "".join(traceback.format_exception(error))[-3000:]


def reason_of(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
