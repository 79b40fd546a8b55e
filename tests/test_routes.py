"""The table of decoders by codec."""

import numpy as np
import pytest

from helpers.plans import table_with
from omnidali.decoding.routes import choose_routes, on_cpu
from omnidali.errors import UserError


def test_routes_by_codec_and_device():
    codecs = ("av1", "h264", "h264:rotated", "hevc:yuv420p10le", "vp9")
    hopper, ada = (9, 0), (8, 9)
    assert set(choose_routes(table_with(codecs), "auto", None).values()) == {"cpu"}
    assert set(choose_routes(table_with(codecs), "cpu", ada).values()) == {"cpu"}
    assert choose_routes(table_with(codecs), "auto", hopper) == {
        "av1": "cpu",
        "h264": "dali",
        "h264:rotated": "cpu",
        "hevc:yuv420p10le": "cpu",
        "vp9": "dali",
    }
    assert choose_routes(table_with(codecs), "auto", ada)["av1"] == "dali"
    assert choose_routes(table_with(["vp9"]), "dali", None) == {"vp9": "dali"}
    assert choose_routes(table_with(codecs), "hybrid", hopper) == {
        "av1": "cpu",
        "h264": "hybrid",
        "h264:rotated": "cpu",
        "hevc:yuv420p10le": "cpu",
        "vp9": "hybrid",
    }
    with pytest.raises(UserError, match="a codec that DALI decodes here, got h264"):
        choose_routes(table_with(["h264"]), "hybrid", None)
    for share in (0, 0.25, 0.6, 1):
        for rank in range(8):  # of every rank the same
            assert abs(on_cpu(np.arange(rank, 8000, 8), share).sum() - 1000 * share) <= 10
    with pytest.raises(UserError, match="codecs that DALI decodes on the CPU, got h264"):
        choose_routes(table_with(["h264", "vp9"]), "dali", None)
