"""A check of `omnidali doctor` in this process."""

import json

from omnidali.doctor.findings import Context, Findings


def collect(look, **context):
    """Run a check in this process; returns its findings and its lines."""
    lines = []

    def emit(message):
        json.dumps(message)
        if "level" in message:
            lines.append((message["level"], message["text"]))

    findings = Findings(Context(**context), emit)
    look(findings)
    return findings, lines


def texts(lines, level):
    return [text for one, text in lines if one == level]
