"""The limits of failing files in a running loader."""

import pytest

from helpers.image_source import CENTER, image_source, open_images, truncate
from omnidali.config.schema import ViewsConfig
from omnidali.errors import BadSourceError
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.planning.evaluation_plan import EvaluationPlan


@pytest.mark.parametrize(
    "limits, message",
    [
        (
            {"max_bad_ratio": 0.0},
            "sources.web: expected at most 0 of 8 files to fail (loader.max_bad_ratio), got 1",
        ),
        (
            {"max_bad_ratio": 1.0, "max_bad_in_a_row": 5},
            "at most 5 clips to fail one after the other (loader.max_bad_in_a_row), got 6",
        ),
    ],
)
def test_too_many_broken_files_end_the_run(tmp_path, limits, message):
    table, source, pics = image_source(tmp_path)
    for path in pics.iterdir():
        truncate(path)
    with (
        open_images(table, source, **limits, threads=1) as batches,
        pytest.raises(BadSourceError, match="--resume auto") as caught,
    ):
        next(batches)
    assert message in str(caught.value)
    assert " OpenCV reads no picture in it, such as " in str(caught.value)


def test_start_after_a_met_limit_meets_it_again(tmp_path):
    table, source, pics = image_source(tmp_path)
    truncate(pics / "5.png")

    for _ in range(2):
        quarantine = Quarantine(tmp_path / "q.jsonl")
        with (
            open_images(
                table, source, max_bad_ratio=0.0, quarantine=quarantine, threads=1
            ) as batches,
            pytest.raises(
                BadSourceError,
                match="expected at most 0 of 8 files to fail .loader.max_bad_ratio., got 1",
            ),
        ):
            list(batches)

    assert len((tmp_path / "q.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("decode", ["cpu", "dali"])
def test_scattered_bad_items_do_not_end_an_evaluation(tmp_path, decode):
    """A bad last item, which fills up the last step, does not end it either."""
    table, source, pics = image_source(tmp_path, decode, count=12)
    for n in (1, 4, 7, 11):
        truncate(pics / f"{n}.png")

    for batch, most in ((32, 4), (3, 2)):
        plan = EvaluationPlan(
            table, CENTER, ViewsConfig(num_clips=1, size=32, short_side=40), batch
        )
        with open_images(
            table, source, plan, end=None, max_bad_ratio=1.0, max_bad_in_a_row=most, threads=1
        ) as batches:
            valid = [
                slot
                for batch in batches
                for slot, good in zip(
                    batch.groups[0].slot.tolist(), batch.groups[0].valid.tolist(), strict=True
                )
                if good
            ]
            assert batches.stats()["web"].substituted == 4
        assert valid == [0, 2, 3, 5, 6, 8, 9, 10]


def test_evaluation_goes_on_without_a_broken_item(tmp_path):
    table, source, pics = image_source(tmp_path)
    truncate(pics / "5.png")
    plan = EvaluationPlan(table, CENTER, ViewsConfig(num_clips=1, size=32, short_side=40), batch=3)

    with open_images(table, source, plan, end=None) as batches:
        rows = [
            (slot, valid)
            for batch in batches
            for slot, valid in zip(
                batch.groups[0].slot.tolist(), batch.groups[0].valid.tolist(), strict=True
            )
        ]
        assert batches.stats()["web"].substituted == 1

    assert [slot for slot, valid in rows if valid] == [0, 1, 2, 3, 4, 6, 7]
