"""Checkpoints of other projects: their own types are read as plain values, or refused by name."""

import argparse
import collections
import datetime
import pathlib
import re
import shlex
import sys
import threading
from types import ModuleType

import numpy as np
import pytest
import torch

from helpers.raw_pickles import (
    Opcodes,
    build,
    call,
    checkpoint_with,
    edit_pickle,
    name_of,
    new,
    numpy_array,
    numpy_dtype,
    opcodes,
)
from omnidali.errors import UserError
from omnidali.models.checkpoint_file import load_newest, load_run, save_checkpoint
from omnidali.models.foreign_types import HistoryBuffer, NumpyArray, as_list
from omnidali.models.recognizers import TSN
from omnidali.models.weights import class_names, read_weights

PLAIN = (
    np.bool_(True),
    *(np.dtype(code).type(-3) for code in ("i1", "i2", "i4", "i8", "f2", "f4", "f8")),
    *(np.dtype(code).type(200) for code in ("u1", "u2", "u4", "u8")),
    np.str_("na\u00efve \U0001f3c3"),
    np.array([2.5], ">f4")[0],
)
OTHERS = (
    np.complex128(1j),
    np.longdouble(1),
    np.datetime64("2020-01-01"),
    np.bytes_(b"a"),
    np.array([(1, 2.0)], "i4,f8")[0],
)


@pytest.fixture
def mmengine(monkeypatch):
    """A module with the one class that snapshots name, which pickles functions of itself."""
    made = ModuleType("mmengine.logging.history_buffer")

    class Logged:
        def __init__(self, values):
            self.__dict__ |= {"_log_history": np.array(values), "max_length": 1_000_000}
            self.__dict__["_statistics_methods"] = {"min": Logged.min}

        def min(self):
            pass

    Logged.__name__ = Logged.__qualname__ = "HistoryBuffer"
    Logged.__module__ = Logged.min.__module__ = made.__name__
    Logged.min.__qualname__ = "HistoryBuffer.min"
    vars(made)["HistoryBuffer"] = Logged
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


def snapshot(logged) -> dict:
    """What mmaction2 1.x saves after an epoch, with NumPy's values wherever there are values."""
    model = TSN(18, 3, 0.5)
    return {
        "meta": {
            "epoch": np.int64(12),
            "hook_msgs": {"best_score": np.float32(0.5), "history": np.arange(6.0)},
            "dataset_meta": {"classes": np.array(["run", "long jump", "swim"])},
        },
        "state_dict": model.state_dict(),
        "message_hub": {
            "log_scalars": collections.OrderedDict(loss=logged([2.0, 1.5])),
            "runtime_info": {"iter": np.int32(3)},
        },
        "optimizer": {"state": {0: {"step": np.float64(3)}}, "param_groups": [{"lr": 0.1}]},
        "param_schedulers": [
            {"factor": np.array([0.1, 1.0]), "eta": np.float16(1), "of": np.int64}
        ],
    }


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("legacy", [False, True])
def test_snapshots_of_mmaction2_are_read(tmp_path, mmengine, core, legacy):
    state = snapshot(mmengine.HistoryBuffer)
    path = tmp_path / "epoch_12.pth"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    if legacy:
        path.write_bytes(path.read_bytes().replace(b"numpy._core", core.encode()))
    else:
        edit_pickle(path, lambda data: data.replace(b"numpy._core", core.encode()))
    assert f"c{core}.multiarray\n".encode() in path.read_bytes()
    sys.modules.pop("mmengine.logging.history_buffer")  # as on a machine without it

    read = read_weights(path)
    assert read["meta"]["epoch"] == 12 and type(read["meta"]["epoch"]) is int
    assert read["meta"]["hook_msgs"]["best_score"] == 0.5
    assert as_list(read["meta"]["hook_msgs"]["history"]) == [0, 1, 2, 3, 4, 5]
    assert class_names(read) == ["run", "long jump", "swim"]
    assert type(read["message_hub"]["log_scalars"]["loss"]) is HistoryBuffer
    assert read["message_hub"]["runtime_info"] == {"iter": 3}
    assert read["optimizer"] == {"state": {0: {"step": 3.0}}, "param_groups": [{"lr": 0.1}]}
    assert read["param_schedulers"][0]["eta"] == 1.0
    for name, value in state["state_dict"].items():
        assert torch.equal(read["state_dict"][name], value), name


def test_scalars_and_arrays_are_plain_values_or_nothing(tmp_path):
    arrays = [np.array([value, value]) for value in PLAIN[:-1]]
    arrays += [np.array(["a", None], object), np.zeros(0), np.array([2.5, 1], ">f8")]
    flat = [np.zeros((2, 2)), np.float64(3) * np.ones(()), *map(np.atleast_1d, OTHERS)]
    state = {"plain": list(PLAIN), "others": list(OTHERS), "arrays": arrays, "flat": flat}
    torch.save({"state_dict": {}, **state}, tmp_path / "a.pth")
    read = read_weights(tmp_path / "a.pth")
    wanted = [value.item() for value in PLAIN]
    assert read["plain"] == wanted and list(map(type, read["plain"])) == list(map(type, wanted))
    assert [as_list(array) for array in read["arrays"]] == [array.tolist() for array in arrays]
    assert not any(isinstance(value, (int, float, str, bytes)) for value in read["others"])
    assert [as_list(array) for array in read["flat"]] == [None] * len(flat)


@pytest.mark.parametrize("classes", [np.array(["a", "b"]), [np.str_("a"), "b"], ("a", "b")])
def test_class_names_of_other_types_are_text(tmp_path, classes):
    torch.save({"state_dict": {}, "classes": classes}, tmp_path / "a.pth")
    assert read_weights(tmp_path / "a.pth")["classes"] == ["a", "b"]
    for entry in ({"CLASSES": classes}, {"dataset_meta": {"classes": classes}}):
        torch.save({"state_dict": {}, "meta": entry}, tmp_path / "a.pth")
        assert class_names(read_weights(tmp_path / "a.pth")) == ["a", "b"]


@pytest.mark.parametrize("classes", [3, "ab", [1, 2], np.array([1.5]), np.zeros((2, 2))])
def test_classes_that_are_no_names_are_refused(tmp_path, classes):
    torch.save({"state_dict": {}, "classes": classes}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="expected names under classes"):
        read_weights(tmp_path / "a.pth")


def test_arrays_are_no_weights(tmp_path):
    torch.save({"state_dict": {"a.weight": np.zeros(3)}}, tmp_path / "a.pth")
    with pytest.raises(
        UserError, match="expected weights by name, got NumpyArray under 'a.weight'"
    ):
        read_weights(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "value, name",
    [
        (datetime.datetime(2020, 1, 1), "datetime.datetime"),
        (collections.defaultdict(list), "collections.defaultdict"),
        (collections.deque([1]), "collections.deque"),
        (pathlib.Path("a"), "pathlib.PosixPath"),
        (argparse.Namespace(lr=0.1), "argparse.Namespace"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (np.random.default_rng(0), "numpy.random._pickle.__generator_ctor"),
    ],
)
def test_other_types_are_refused_by_name_with_a_command(tmp_path, monkeypatch, value, name):
    path = tmp_path / "my run.pth"
    weights = {"a.weight": torch.arange(3.0)}
    torch.save({"model_state": weights, "args": value}, path)
    with pytest.raises(UserError) as caught:
        read_weights(path)
    assert f"got an object of {name}. If you trust its author" in str(caught.value)

    # the command that it gives leaves a file that is read
    words = shlex.split(str(caught.value).rpartition("is installed: ")[2])
    assert words[:2] == ["python", "-c"] and words[3] == str(path)
    monkeypatch.setattr(sys, "argv", words[2:])
    exec(words[2], {})
    assert torch.equal(read_weights(words[4])["state_dict"]["a.weight"], weights["a.weight"])


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_newer_protocols_are_refused_by_number_with_the_command(tmp_path, protocol):
    state = {"state_dict": {"a.weight": torch.zeros(1)}, "n": np.arange(300)}
    torch.save(state, tmp_path / "a.pth", pickle_protocol=protocol)
    with pytest.raises(UserError, match=f"got pickle protocol {protocol}. If you .* python -c"):
        read_weights(tmp_path / "a.pth")


def test_whole_networks_are_refused_with_a_command_that_works(tmp_path, monkeypatch):
    for number, state in enumerate((TSN(18, 2, 0.5), {"model": TSN(18, 2, 0.5), "epoch": 1})):
        torch.save(state, tmp_path / f"{number}.pth")
        with pytest.raises(
            UserError, match="an object of omnidali.models.recognizers.TSN"
        ) as caught:
            read_weights(tmp_path / f"{number}.pth")
        words = shlex.split(str(caught.value).rpartition("is installed: ")[2])
        monkeypatch.setattr(sys, "argv", words[2:])
        exec(words[2], {})
        assert "cls_head.fc_cls.bias" in read_weights(words[4])["state_dict"]


BUFFER = name_of("mmengine.logging.history_buffer", "HistoryBuffer")
GETATTR = name_of("__builtin__", "getattr")
SYSTEM = name_of("os", "system")
HOSTILE = {
    "os.system": call(SYSTEM, "touch marker"),
    "posix.system": call(name_of("posix", "system"), "touch marker"),
    "exec": call(name_of("builtins", "exec"), "open('marker', 'w')"),
    "eval": call(name_of("__builtin__", "eval"), "open('marker', 'w')"),
    "subprocess.Popen": call(name_of("subprocess", "Popen"), ["touch", "marker"]),
    "getattr": call(GETATTR, name_of("torch", "Tensor"), "__class__"),
    "bytes": call(name_of("__builtin__", "bytes"), 1 << 40),
    "functools.partial": call(name_of("functools", "partial"), SYSTEM, "touch marker"),
    "numpy.load": call(name_of("numpy", "load"), "marker"),
    "numpy.f2py.crackfortran.myeval": call(
        name_of("numpy.f2py.crackfortran", "myeval"), "open('marker', 'w')"
    ),
    "os.system in an array": numpy_array((1,), numpy_dtype("O"), [SYSTEM]),
    "os.system in a buffer": build(new(BUFFER), {"_log_history": SYSTEM}),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_pickles_stay_refused(tmp_path, monkeypatch, attack):
    monkeypatch.chdir(tmp_path)
    checkpoint_with(tmp_path / "a.pth", HOSTILE[attack])
    name = re.escape(attack.split(" ")[0])
    with pytest.raises(UserError, match=rf"got one that calls {name}\. .* by any means"):
        read_weights("a.pth")
    assert not (tmp_path / "marker").exists()


# What is made from the stand-ins is never called, and takes no attribute or class.
HARMLESS = {
    "method of the buffer": call(GETATTR, BUFFER, "__class__"),
    "class of the buffer": build(new(BUFFER), {"__class__": 3, "__setstate__": 4}),
    "slots of the buffer": build(new(BUFFER), (None, {"__class__": BUFFER})),
    "state of a dtype": build(numpy_dtype("f8"), "nonsense"),
    "dtype of an array": call(name_of("numpy", "dtype"), numpy_array((1,), numpy_dtype("f8"), b"")),
    "huge array": numpy_array((1 << 60, 1 << 60), numpy_dtype("f8"), b""),
    "negative array": numpy_array((-1,), numpy_dtype("f8"), b"\0" * 8),
    "array of a huge type": numpy_array((1,), numpy_dtype("U2000000000"), b""),
    "huge scalar": call(name_of("numpy._core.multiarray", "scalar"), numpy_dtype("U9" * 9), b""),
    "short scalar": call(name_of("numpy.core.multiarray", "scalar"), numpy_dtype("f8"), b"\0"),
    "scalar of a list": call(name_of("numpy.core.multiarray", "scalar"), [1], [2]),
    "array without parts": build(
        call(name_of("numpy.core.multiarray", "_reconstruct")), {"shape": (1,)}
    ),
    "array in itself": build(new(name_of("numpy", "ndarray"), 1 << 60), (1, 2, 3)),
}


@pytest.mark.parametrize("attack", HARMLESS)
def test_stand_ins_are_inert(tmp_path, attack):
    read = read_weights(checkpoint_with(tmp_path / "a.pth", HARMLESS[attack]))
    assert type(read["extra"]).__module__ == "omnidali.models.foreign_types"
    assert not hasattr(read["extra"], "__dict__")
    if isinstance(read["extra"], NumpyArray):
        assert as_list(read["extra"]) is None


@pytest.mark.parametrize(
    "made",
    [
        call(call(GETATTR, BUFFER, "min"), "touch marker"),
        call(new(BUFFER), "touch marker"),
        call(numpy_dtype("f8"), "touch marker"),
        new(new(BUFFER)),
        Opcodes(numpy_array((1,), numpy_dtype("f8"), b"\0" * 8) + opcodes(1) + opcodes(2) + b"s"),
        Opcodes(new(BUFFER) + opcodes(1) + b"a"),
    ],
)
def test_stand_ins_are_neither_called_nor_filled(tmp_path, made):
    with pytest.raises(UserError, match="expected a checkpoint that can be read safely"):
        read_weights(checkpoint_with(tmp_path / "a.pth", made))


def test_allowed_types_of_the_process_stay_as_they_were(tmp_path):
    mine = [np.dtype, (np.ndarray, "numpy.ndarray"), argparse.Namespace]
    good = checkpoint_with(tmp_path / "good.pth", numpy_array((1,), numpy_dtype("i1"), b"\7"))
    bad = checkpoint_with(tmp_path / "bad.pth", call(SYSTEM, "true"))
    before = set(torch.serialization.get_safe_globals())
    for allowed in ([], mine):
        with torch.serialization.safe_globals(allowed):
            inside = set(torch.serialization.get_safe_globals())
            for _ in range(3):
                assert as_list(read_weights(good)["extra"]) == [7]
                with pytest.raises(UserError):
                    read_weights(bad)
                assert set(torch.serialization.get_safe_globals()) == inside
        assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(Exception, match="Unsupported global: GLOBAL numpy"):
        torch.load(good, weights_only=True)


def test_end_of_one_read_does_not_disturb_another(tmp_path, monkeypatch):
    """The list of allowed types is the process's, not the thread's."""
    good = checkpoint_with(tmp_path / "good.pth", numpy_array((1,), numpy_dtype("i1"), b"\7"))
    before = set(torch.serialization.get_safe_globals())
    read = []
    first_is_done, second_is_inside = threading.Event(), threading.Event()
    load = torch.load

    def load_of_second(*args, **kwargs):
        second_is_inside.set()
        first_is_done.wait(timeout=10)
        return load(*args, **kwargs)

    def load_of_first(*args, **kwargs):
        monkeypatch.setattr(torch, "load", load_of_second)
        second.start()
        second_is_inside.wait(timeout=0.2)  # it is let in if nothing holds it
        return load(*args, **kwargs)

    def work():
        read.append(as_list(read_weights(good)["extra"]))

    second = threading.Thread(target=work)
    monkeypatch.setattr(torch, "load", load_of_first)
    work()
    first_is_done.set()
    second.join()
    assert read == [[7]] * 2
    assert set(torch.serialization.get_safe_globals()) == before


def test_checkpoints_of_runs_hold_no_foreign_types(tmp_path):
    """A run saves plain data; a file with more is not resumed, as before."""
    state = {"state_dict": {"w": torch.zeros(3)}, "loader": {"step": 1}}
    save_checkpoint(tmp_path / "previous.pt", state)
    torch.save({**state, "best": np.float64(1)}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="numpy._core.multiarray.scalar. It is another project's"):
        load_run(tmp_path / "last.pt")
    path, _, line = load_newest(tmp_path)
    assert path.name == "previous.pt" and "last.pt is damaged" in line
