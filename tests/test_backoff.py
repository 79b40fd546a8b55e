"""Pauses between tries."""

from types import SimpleNamespace

from omnidali.utils import backoff
from omnidali.utils.backoff import Backoff


def test_pauses_double_up_to_the_longest(monkeypatch):
    pauses = []
    monkeypatch.setattr(backoff, "time", SimpleNamespace(sleep=pauses.append))
    tries = Backoff(first=1.0, longest=5.0)
    for _ in range(4):
        tries.pause()
    tries.pause(at_most=0.5)
    assert pauses == [1.0, 2.0, 4.0, 5.0, 0.5]
