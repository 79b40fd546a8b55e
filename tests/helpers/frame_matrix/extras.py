"""The cases that have no place in the matrix."""

from __future__ import annotations

from helpers.frame_matrix.case import Case
from helpers.frame_matrix.extra_copies import copy_cases, cut_cases, hidden_reference_cases
from helpers.frame_matrix.extra_packets import (
    damage_cases,
    empty_packet_cases,
    joined_cases,
    keyframe_mark_cases,
)
from helpers.frame_matrix.extra_streams import form_cases, picture_cases, stream_cases
from helpers.frame_matrix.extra_times import clock_cases, edit_cases


def extras() -> list[Case]:
    """What has no place in the matrix."""
    return [
        *copy_cases(),
        *hidden_reference_cases(),
        *cut_cases(),
        *stream_cases(),
        *picture_cases(),
        *form_cases(),
        *edit_cases(),
        *clock_cases(),
        *joined_cases(),
        *keyframe_mark_cases(),
        *empty_packet_cases(),
        *damage_cases(),
    ]
