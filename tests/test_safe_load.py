"""Refused checkpoints: the command that runs what a file asks for is given for types alone."""

import collections

import pytest
import torch

from helpers.raw_pickles import call, checkpoint_with, name_of
from omnidali.errors import UserError
from omnidali.models.weights import read_weights

TYPES = (
    *("torch.nn.modules.linear.Linear", "mmcv.utils.config.ConfigDict", "__main__.Config"),
    *("some_project.models.Net", "omegaconf.dictconfig.DictConfig", "yacs.config._Node"),
    *("numpy.random._pickle.__generator_ctor", "numpy.ma.core._mareconstruct"),
    *("torch._utils._rebuild_xla_tensor", "fvcore.common.config.CfgNode"),
    *("datetime.datetime", "collections.defaultdict", "pathlib.PosixPath", "decimal.Decimal"),
    *("argparse.Namespace", "types.SimpleNamespace", "uuid.UUID", "builtins.frozenset"),
)
FUNCTIONS = (
    *("io.open", "_io.FileIO", "io.FileIO", "_posixsubprocess.fork_exec", "marshal.loads"),
    *("types.FunctionType", "types.CodeType", "functools.partial", "multiprocessing.Process"),
    *("asyncio.run", "builtins.print", "builtins.type", "subprocess.Popen", "posix.system"),
    *("logging.FileHandler", "threading.Thread", "argparse.FileType", "operator.attrgetter"),
    *("torch.hub.load", "torch.load", "torch.jit.load", "torch.ops.load_library", "numpy.load"),
    *("joblib.load", "dill._dill._eval_repr", "cloudpickle.loads", "requests.get"),
    *("torch.subprocess.Popen", "some_project.utils.os.System", "setuptools.sys.Exit"),
)


def refusal(path, name):
    module, _, inner = name.rpartition(".")
    with pytest.raises(UserError) as caught:
        read_weights(checkpoint_with(path, call(name_of(module, inner), "a")))
    return str(caught.value)


@pytest.mark.parametrize("name", TYPES)
def test_command_is_given_for_types(tmp_path, name):
    text = refusal(tmp_path / "a.pth", name)
    assert f"an object of {name.removeprefix('builtins.')}. If you trust its author" in text


@pytest.mark.parametrize("name", FUNCTIONS)
def test_command_is_not_given_for_functions(tmp_path, name):
    text = refusal(tmp_path / "a.pth", name)
    assert f"one that calls {name.removeprefix('builtins.')}. No weights need that: do not" in text
    assert "python -c" not in text


WEIGHTS = {"backbone.conv1.conv.weight": torch.arange(4.0)}


def with_attributes(made, **attributes):
    vars(made).update(attributes)
    return made


def ordered(contents, name):
    return with_attributes(collections.OrderedDict(contents), **{name: 5})


def parameter(name):
    return with_attributes(torch.nn.Parameter(torch.arange(4.0)), **{name: 5})


@pytest.mark.parametrize("name", ["get", "keys", "values", "copy", "__getitem__"])
def test_attributes_of_dicts_hide_no_methods(tmp_path, name):
    for state in (
        ordered(WEIGHTS, name),
        ordered({"state_dict": ordered(WEIGHTS, name)}, name),
        {"model": ordered(WEIGHTS, name), "meta": ordered({"CLASSES": ["a"]}, name)},
        {"state_dict": WEIGHTS, "ema": ordered(WEIGHTS, name)},
    ):
        torch.save(state, tmp_path / "a.pth")
        read = read_weights(tmp_path / "a.pth")
        assert torch.equal(read["state_dict"]["backbone.conv1.conv.weight"], torch.arange(4.0))


@pytest.mark.parametrize("name", ["numel", "detach", "element_size", "is_complex"])
def test_attributes_of_tensors_hide_no_methods(tmp_path, name):
    torch.save({"state_dict": {"a": parameter(name)}}, tmp_path / "a.pth")
    value = read_weights(tmp_path / "a.pth")["state_dict"]["a"]
    assert type(value) is torch.Tensor and not vars(value) and value.numel() == 4


def test_shared_values_stay_shared(tmp_path):
    shared = [1, torch.zeros(2)]
    torch.save({"state_dict": WEIGHTS, "a": shared, "b": (shared, shared)}, tmp_path / "a.pth")
    read = read_weights(tmp_path / "a.pth")
    assert read["a"] is read["b"][0] is read["b"][1]
