"""Pickles that ask for much more than they hold are refused before anything is made from them."""

import resource
import signal

import numpy as np
import pytest
import torch

from helpers.raw_pickles import Opcodes, build, call, checkpoint_with, name_of, new, opcodes
from omnidali.errors import UserError
from omnidali.models import pickle_check
from omnidali.models.pickle_check import check_pickle, check_pickles
from omnidali.models.recognizers import TSN
from omnidali.models.weights import read_weights

BYTEARRAY = name_of("__builtin__", "bytearray")
ENCODE = name_of("_codecs", "encode")
REBUILD = name_of("torch._tensor", "_rebuild_from_type_v2")
TENSOR = name_of("torch", "Tensor")
GIGABYTES = 3 * 10**9
# opcodes of torch.save's protocol: BINPUT and BINGET of the same place, in a memo's free one
PUT, GET = b"q\xf0", b"h\xf0"


def doubled(begin: bytes, twice: bytes, count: int) -> Opcodes:
    """A value that holds the one before twice, again and again."""
    return Opcodes(begin + PUT + (twice + PUT) * count)


def hex_of_hex(text: Opcodes) -> Opcodes:
    """Bytes of which each call makes twice as many."""
    for _ in range(30):
        text = call(ENCODE, text, "hex")
    return text


TUPLES = doubled(b"K\x01", GET + GET + b"\x86", 60)
LISTS = doubled(b"K\x01", b"](" + GET + GET + b"e", 60)
COUNTER = call(name_of("collections", "Counter"), Opcodes(GET))
COPIES = Opcodes(b"(" + opcodes(["a" * 18] * 10_000) + PUT + COUNTER * 100 + b"t")
HOSTILE = {
    "bytearray of a number": (call(BYTEARRAY, GIGABYTES), "bytearray, which takes any amount"),
    "new bytearray": (new(BYTEARRAY, GIGABYTES), "bytearray, which takes any amount"),
    "arguments in a list": (
        Opcodes(BYTEARRAY + opcodes([GIGABYTES]) + b"R"),
        "a call with other arguments than a tuple",
    ),
    "bytearray within a call": (
        call(REBUILD, BYTEARRAY, TENSOR, (GIGABYTES,), {}),
        "bytearray, which takes any amount",
    ),
    "tensor of a number": (call(TENSOR, GIGABYTES), "torch.Tensor, which takes any amount"),
    "storage of a number": (
        call(name_of("torch.storage", "UntypedStorage"), GIGABYTES),
        "UntypedStorage, which takes any amount",
    ),
    "other encoding": (hex_of_hex(opcodes("aa")), "an encoding that no checkpoint has"),
    "deep tuples": (Opcodes(b"K\x01" + b"\x85" * 200_000), "nested more than 100 deep"),
    "deep tuples as a key": (
        Opcodes(b"}(K\x01" + b"\x85" * 200_000 + b"K\x01u"),
        "nested more than 100 deep",
    ),
    "deep lists": (Opcodes(b"]" * 200 + b"a" * 199), "nested more than 100 deep"),
    "deep marks": (Opcodes(b"(" * 200 + b"t" * 200), "nested more than 100 deep"),
    "tuples of tuples": (TUPLES, "used too often"),
    "tuples of tuples as a key": (Opcodes(b"}(" + TUPLES + b"K\x01u"), "used too often"),
    "lists of lists": (LISTS, "used too often"),
    "copies of a list": (COPIES, "used too often"),
    "list in itself": (Opcodes(b"]" + PUT + GET + b"a"), "filled late"),
    "list that is filled late": (
        Opcodes(b"(](]" + PUT + b"K\x01e" + GET + b"K\x01at"),
        "filled late",
    ),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_pickles_that_ask_for_too_much_are_refused(tmp_path, attack):
    extra, reason = HOSTILE[attack]
    path = checkpoint_with(tmp_path / "a.pth", extra)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.alarm(20)  # without an end, it would end the test run
    try:
        with pytest.raises(UserError, match=f"that can be read safely, got .*{reason}"):
            read_weights(path)
    finally:
        signal.alarm(0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


def test_pickles_of_the_older_form_are_looked_through(tmp_path):
    for place in range(5):
        pickles = [opcodes(1) + b"."] * 5
        pickles[place] = call(BYTEARRAY, GIGABYTES) + b"."
        (tmp_path / "a.pth").write_bytes(b"".join(b"\x80\x02" + data for data in pickles))
        with pytest.raises(ValueError, match="bytearray, which takes any amount"):
            check_pickles(tmp_path / "a.pth")


def test_type_that_torch_refuses_is_the_better_reason(tmp_path):
    """An object of a linked list, say, is deep; the command for trusted files is what helps."""
    deep = Opcodes(b"K\x01" + b"\x85" * 200)
    linked = build(new(name_of("argparse", "Namespace")), deep)
    with pytest.raises(UserError, match="an object of argparse.Namespace. If you trust"):
        read_weights(checkpoint_with(tmp_path / "a.pth", linked))
    with pytest.raises(UserError, match="one that calls os.system. No weights need that"):
        read_weights(
            checkpoint_with(tmp_path / "a.pth", (call(name_of("os", "system"), "id"), deep))
        )


@pytest.mark.parametrize("legacy", [False, True])
def test_good_checkpoints_pass(tmp_path, monkeypatch, legacy):
    """All plain data, shared values, and no more than the pickle's own size of them."""
    monkeypatch.setattr(pickle_check, "_MAX_SIZE", 0)
    model = TSN(18, 3, 0.5)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model.cls_head.fc_cls.weight.sum().backward()
    optimizer.step()
    shared = [1, 2.5, None]
    state = {
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "parameter": model.cls_head.fc_cls.weight,
        "plain": [b"ab", bytearray(b"ab"), {1, "a"}, 1j, 1 << 70, True, torch.Size([3]), ()],
        "shared": [shared, shared, {"a": shared}],
        "long": [str(number) for number in range(3000)],
        "log": [{"step": number, "accuracy": 0.5} for number in range(1000)],
        "array": np.arange(300),
    }
    path = tmp_path / "a.pth"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    check_pickles(path)
    read = read_weights(path)
    assert read["plain"] == state["plain"] and read["shared"] == state["shared"]
    assert torch.equal(read["parameter"], state["parameter"])


@pytest.mark.parametrize(
    "data, has_end",
    [(b"\x80\x02N.", True), (b"", False), (b"garbage", False), (b"\x80\x04\x95", False)],
)
def test_end_of_a_pickle_is_found(data, has_end):
    assert check_pickle(data) == has_end
