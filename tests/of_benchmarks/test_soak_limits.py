"""The verdicts of a soak."""

from benchmarks.soak_limits import check_naming
from benchmarks.soak_media import AppliedFault


def test_soak_counts_a_file_that_failed_again_as_named_again():
    damage = AppliedFault(
        **{
            field: {"path": "/1", "fault": "x", "outcome": "fails", "begun": 0.0, "done": 1.0}.get(
                field, 0
            )
            for field in AppliedFault.__dataclass_fields__
        }
    )
    lines = [
        {"path": "/1", "state": state, "time": 5.0} for state in ("failed", "recovered", "failed")
    ]

    assert all(verdict.passed for verdict in check_naming([damage], lines, {"/1": 4.0}))
    assert not all(
        verdict.passed for verdict in check_naming([damage], [*lines, lines[-1]], {"/1": 4.0})
    )
