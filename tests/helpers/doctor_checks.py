"""Checks that go wrong on purpose."""

import os
import signal
import time


def crash(findings):
    """The second of three cases ends its process."""
    for case in findings.cases(["one", "two", "three"]):
        if case == "two":
            os.kill(os.getpid(), signal.SIGSEGV)
        findings.good(case)


def hang(findings):
    """The second of three cases never ends."""
    for case in findings.cases(["one", "two", "three"]):
        if case == "two":
            time.sleep(600)
        findings.good(case)


def fail(findings):
    """An error that the check does not expect, after a finding."""
    findings.fact("found", 7)
    findings.good("before")
    raise RuntimeError("nobody thought\nof this")


def leave(findings):
    """The process ends in the middle."""
    print("something went wrong")
    os._exit(3)


def be_slow(findings):
    """More cases than the time allows."""
    for _ in findings.cases(["one", "two", "three"], reserve=2.5):
        time.sleep(1.0)


def hang_without_a_case(findings):
    """It never ends."""
    time.sleep(600)


def crash_each_time(findings):
    """Every case ends its process."""
    for _ in findings.cases(map(str, range(9))):
        os.kill(os.getpid(), signal.SIGKILL)
