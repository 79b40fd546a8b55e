"""The order of a source's rows: class balance, and few labels, against plain restatements."""

from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.plans import made_up_table
from omnidali.config.sources import ResampleConfig
from omnidali.planning.philox import Stream
from omnidali.planning.resampling import RowOrder, fraction_of, quotas


def counts_of(labels, resample, epochs=1, seed=0):
    rows = RowOrder(labels, resample, Stream(seed, 0))
    return rows, rows(np.arange(epochs * rows.epoch))


@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=12),
    power=st.floats(0, 1),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_realised_class_shares_equal_planned_ones(sizes, power, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    if not len(labels):
        return
    np.random.default_rng(seed).shuffle(labels)
    rows, drawn = counts_of(labels, ResampleConfig(power=power), seed=seed)
    counts = np.bincount(labels, minlength=len(sizes))
    wanted = np.where(counts > 0, counts**power if power else 1.0, 0)
    wanted = wanted / wanted.sum() * len(labels)
    realised = np.bincount(labels[drawn], minlength=len(sizes))
    assert rows.epoch == len(labels) and np.abs(realised - wanted).max() < 1
    assert (realised[counts > 0] > 0).all()


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=8), most=st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_clipped_classes_draw_other_samples_in_every_epoch(sizes, most):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rows, drawn = counts_of(labels, ResampleConfig(clipped=most), epochs=3)
    for epoch in drawn.reshape(3, -1):
        assert np.bincount(labels[epoch]).tolist() == np.minimum(sizes, most).tolist()
    for label, size in enumerate(sizes):
        seen = Counter(drawn[labels[drawn] == label].tolist())
        if size > most:  # no row comes again before all came once
            assert (
                max(seen.values())
                - min(seen.get(row, 0) for row in np.flatnonzero(labels == label))
                <= 1
            )


def test_power_of_one_gives_natural_shares_and_zero_equal_ones():
    counts = np.array([5, 0, 20])
    assert quotas(counts, ResampleConfig(power=1.0)).tolist() == [5, 0, 20]
    assert quotas(counts, ResampleConfig(power=0.0)).tolist() in ([13, 0, 12], [12, 0, 13])


@given(fraction=st.floats(0.01, 1), seed=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_fractions_keep_every_class_and_nest(fraction, seed):
    table = made_up_table(200, classes=9)
    part = fraction_of(table, fraction, seed)
    counts, kept = np.bincount(table.labels, minlength=9), np.bincount(part.labels, minlength=9)
    assert kept.tolist() == np.ceil(fraction * counts).astype(int).tolist()
    assert (
        set(fraction_of(table, fraction / 2, seed).records)
        <= set(part.records)
        <= set(table.records)
    )
    assert part.fingerprint != table.fingerprint or fraction == 1


def test_take_keeps_pieces_of_long_videos():
    table = replace(
        made_up_table(6),
        labels=np.arange(3),
        starts=np.array([0, 1, 4, 6]),
        positives=np.array([1, 2, 1]),
        firsts=np.arange(6) * 10,
    )
    part = table.take(np.array([0, 2]), "a part")
    assert (
        part.starts.tolist() == [0, 1, 3]
        and part.firsts.tolist() == [0, 40, 50]
        and part.positives.tolist() == [1, 1]
    )
    assert len(part) == 2 and part.first_record(1) == table.records[4]
