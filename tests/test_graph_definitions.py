"""Every graph for a GPU is defined on any machine: arguments, operators, and where they run.

DALI looks at names and devices when a graph is defined. So each upgrade of DALI is tested for them
without a GPU; building needs one.
"""

from collections import Counter

import pytest
from nvidia.dali import fn
from nvidia.dali.types import DALIDataType

from helpers.dali_graphs import Operator, define_graph
from omnidali.pipelines import (
    EncodedImages,
    EncodedVideos,
    Graph,
    MovingImages,
)

VIEW_FEEDS = {"start", "end", "flip"}
KINDS = {
    # graph: its feeds for all views, its feeds for each view, its operators for each view
    EncodedImages: ({"data"}, VIEW_FEEDS, ["Resize", "CropMirrorNormalize", "ExpandDims"]),
    EncodedVideos: (
        {"data", "frames", "order", "sides", "colours"},
        VIEW_FEEDS,
        ["Resize", "SequenceRearrange", "CoordTransform", "CropMirrorNormalize"],
    ),
}
VIEWS = [1, 2, 3, 10]

# What a GPU gets of each graph, with two views where there are views: by operator, where it runs,
# and what it takes from where. An input of the CPU to an operator of the GPU is an argument.
ON_GPU = {
    EncodedImages: [
        "decoders__Image mixed: cpu data",
        "Resize gpu: gpu decoders__Image, cpu end0, cpu start0",
        "CropMirrorNormalize gpu: gpu Resize, cpu flip0",
        "ExpandDims gpu: gpu CropMirrorNormalize",
        "Resize gpu: gpu decoders__Image, cpu end1, cpu start1",
        "CropMirrorNormalize gpu: gpu Resize, cpu flip1",
        "ExpandDims gpu: gpu CropMirrorNormalize",
    ],
    EncodedVideos: [
        "decoders__Video mixed: cpu data, cpu frames",
        "Slice gpu: gpu decoders__Video, cpu sides",
        "Resize gpu: gpu Slice, cpu end0, cpu start0",
        "SequenceRearrange gpu: gpu Resize, cpu order",
        "CoordTransform gpu: gpu SequenceRearrange, cpu colours",
        "CropMirrorNormalize gpu: gpu CoordTransform, cpu flip0",
        "Resize gpu: gpu Slice, cpu end1, cpu start1",
        "SequenceRearrange gpu: gpu Resize, cpu order",
        "CoordTransform gpu: gpu SequenceRearrange, cpu colours",
        "CropMirrorNormalize gpu: gpu CoordTransform, cpu flip1",
    ],
    MovingImages: [
        "decoders__Image mixed: cpu data",
        "Resize gpu: gpu decoders__Image, cpu end0, cpu sides, cpu start0",
        "ExpandDims gpu: gpu Resize",
        "SequenceRearrange gpu: gpu ExpandDims",
        "PerFrame cpu: cpu matrices",  # marks an argument
        "experimental__WarpPerspective gpu: gpu SequenceRearrange, cpu PerFrame",
        "CropMirrorNormalize gpu: gpu experimental__WarpPerspective, cpu flip0",
    ],
}


def options(views=2, frames=4, device_id=0):
    return {
        "size": 224,
        "views": views,
        "batch": 8,
        "threads": 2,
        "device_id": device_id,
        "frames": frames,
    }


def described(operators: list[Operator]) -> list[str]:
    """A line for each operator that is no feed."""
    schemas = {
        operator.name: operator.name if operator.is_feed else operator.schema
        for operator in operators
    }
    lines = []
    for operator in operators:
        if not operator.is_feed:
            regular = operator.takes[: operator.regular]
            arguments = sorted(operator.takes[operator.regular :])
            taken = [f"{device} {schemas[name]}" for name, device in (*regular, *arguments)]
            lines.append(f"{operator.schema} {operator.device}: {', '.join(taken)}")
    return lines


@pytest.mark.parametrize("kind", ON_GPU)
def test_operators_of_a_gpu_run_where_they_should(monkeypatch, kind):
    views = 1 if kind is MovingImages else 2
    outputs, operators = define_graph(monkeypatch, kind, **options(views))
    assert described(operators) == ON_GPU[kind]
    assert {output.device for output in outputs} == {"gpu"}


@pytest.mark.parametrize("kind", ON_GPU)
def test_the_cpu_runs_the_same_operators(monkeypatch, kind):
    views = 1 if kind is MovingImages else 2
    outputs, operators = define_graph(monkeypatch, kind, **options(views, device_id=None))
    same = [line.replace("gpu", "cpu").replace("mixed", "cpu") for line in ON_GPU[kind]]
    assert described(operators) == same
    assert {output.device for output in outputs} == {"cpu"}


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_number_of_views_is_defined(monkeypatch, kind, views):
    common, by_view, steps = KINDS[kind]
    outputs, operators = define_graph(monkeypatch, kind, **options(views))
    feeds = {operator.name for operator in operators if operator.is_feed}
    assert feeds == common | {f"{name}{view}" for name in by_view for view in range(views)}
    assert len(outputs) == views
    assert {output.device for output in outputs} == {"gpu"}

    others = [operator for operator in operators if not operator.is_feed]
    assert {operator.leaves for operator in others} == {"gpu"}
    counts = Counter(operator.schema for operator in others)
    assert all(counts[step] == views for step in steps)


@pytest.mark.parametrize("frames", [1, 2, 8, 32, 64])
def test_every_number_of_frames_is_defined(monkeypatch, frames):
    _, operators = define_graph(monkeypatch, MovingImages, **options(1, frames))
    feeds = {operator.name for operator in operators if operator.is_feed}
    assert feeds == {"data", "sides", "matrices", "start0", "end0", "flip0"}
    assert described(operators) == ON_GPU[MovingImages]


class Renamed(Graph):
    """As if an upgrade had renamed an argument."""

    def define(self):
        data = fn.external_source(name="data", dtype=DALIDataType.UINT8, ndim=1)
        return [fn.decoders.video(data, numbers=[0], device="mixed")]


class OnTheWrongDevice(Graph):
    """Pixels that lie on the GPU are scaled on the CPU."""

    def define(self):
        data = fn.external_source(name="data", dtype=DALIDataType.UINT8, ndim=1)
        return [fn.resize(fn.decoders.video(data, device="mixed"), size=[8, 8], device="cpu")]


@pytest.mark.parametrize(
    ("kind", "error"),
    [(Renamed, 'Argument "numbers" is not defined'), (OnTheWrongDevice, "incompatible device")],
)
def test_definition_refuses_wrong_names_and_devices(monkeypatch, kind, error):
    with pytest.raises(Exception, match=error):  # of other kinds in other versions of DALI
        define_graph(monkeypatch, kind, **options())
