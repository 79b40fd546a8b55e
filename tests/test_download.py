"""Released weights: from the cache, or from a publisher that may fail in any way."""

import errno
import fcntl
import functools
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from helpers.weights_server import as_bytes, publishing, release, wait_until
from omnidali.cli import main as cli
from omnidali.config.model_settings import ModelConfig
from omnidali.config.schema import ViewsConfig
from omnidali.errors import UserError
from omnidali.models import download
from omnidali.models.checkpoint_file import find_checkpoint
from omnidali.models.download import cache_folder, fetch, locate_weights
from omnidali.models.pretrained import check_pretrained, load_pretrained
from omnidali.models.recognizers import TSN
from omnidali.models.released_weights import RELEASED
from omnidali.models.trained_model import load_trained

NAME = "torchvision/resnet18"
DATA = bytes(range(256)) * 4000  # some chunks


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of this test alone, and no proxy of the machine."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for scheme in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme.upper()}_PROXY", raising=False)
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    return tmp_path / "torch/hub/checkpoints"


@pytest.fixture
def publisher():
    with publishing(DATA) as serving:
        yield serving


def files_in(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_name_of_released_weights_is_downloaded_once_and_used_offline(tmp_path, monkeypatch):
    parent = TSN(18, 3, 0.0)
    data = as_bytes({"state_dict": parent.state_dict()}, tmp_path / "parent.pth")
    with publishing(data) as serving:
        released = release(serving, "mmaction2/tsn_r18", "tsn", classes=3, sampling=(1, 1, 8))
        monkeypatch.setitem(RELEASED, released.name, released)
        config = ModelConfig(depth=18, pretrained=released.name)
        check_pretrained(config)
        assert len(serving.asked) == 1
    # the server is gone
    check_pretrained(config)
    model = TSN(18, 3, 0.0)
    report = load_pretrained(model, released.name)
    assert not report.missing and report.family == "mmaction2"
    assert torch.equal(model.cls_head.fc_cls.weight, parent.cls_head.fc_cls.weight)
    assert find_checkpoint(released.name) == cache_folder() / released.file
    clips = torch.randn(1, 3, 2, 32, 32)
    trained = load_trained(released.name)
    assert torch.equal(trained.network(clips), parent.eval()(clips))
    assert trained.config.evaluation.test == ViewsConfig(num_clips=25, crops="three")


def test_files_and_folders_open_no_connection(tmp_path, monkeypatch):
    def fail(*_):
        raise AssertionError("a connection")

    monkeypatch.setattr("socket.socket.connect", fail)
    monkeypatch.setattr("socket.getaddrinfo", fail)
    model = TSN(18, 3, 0.0)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    check_pretrained(ModelConfig(depth=18))
    check_pretrained(ModelConfig(depth=18, pretrained=str(tmp_path / "a.pth")))
    load_pretrained(model, tmp_path / "a.pth")
    with pytest.raises(AssertionError, match="a connection"):  # the control
        fetch(RELEASED[NAME])

    # what exists counts, also under a name of released weights
    path = tmp_path / NAME
    path.parent.mkdir()
    path.touch()
    monkeypatch.chdir(tmp_path)
    assert locate_weights(NAME).samefile(path)
    check_pretrained(ModelConfig(depth=50, pretrained=NAME))


@pytest.mark.parametrize("takes_ranges", [True, False])
@pytest.mark.parametrize("claims", [None, ""])
def test_download_that_is_cut_off_is_gone_on_with(publisher, takes_ranges, claims):
    publisher.takes_ranges = takes_ranges
    publisher.cuts = [300_000]
    publisher.claims = claims
    released = release(publisher, NAME)
    if claims == "":  # nothing says that the file is longer
        with pytest.raises(UserError, match="another file, whose SHA-256 does not begin with"):
            fetch(released)
    assert fetch(released).read_bytes() == DATA
    ranges = [wanted for _, wanted in publisher.asked]
    assert ranges == [None, None if claims == "" else "bytes=300000-"]
    assert files_in(cache_folder()) == [released.file]


def test_later_call_goes_on_with_what_an_earlier_one_has(publisher, cache):
    released = release(publisher, NAME)
    publisher.cuts = [500_000, 0]
    with pytest.raises(UserError, match="500,000 of 1,024,000 bytes, where the connection ended"):
        fetch(released)
    assert files_in(cache) == [f"{released.file}.part"]
    fetch(released)
    assert publisher.asked[-1][1] == "bytes=500000-"


@pytest.mark.parametrize("size", [10, len(DATA), 2 * len(DATA)])
def test_wrong_beginning_is_replaced(publisher, cache, size):
    """Of another file, as long as this one or longer, which no range can follow."""
    released = release(publisher, NAME)
    cache.mkdir(parents=True)
    (cache / f"{released.file}.part").write_bytes(b"x" * size)
    assert fetch(released).read_bytes() == DATA
    assert files_in(cache) == [released.file]


def test_finished_download_that_was_not_renamed_is_used(publisher, cache):
    released = release(publisher, NAME)
    cache.mkdir(parents=True)
    (cache / f"{released.file}.part").write_bytes(DATA)
    assert fetch(released).read_bytes() == DATA


@pytest.mark.parametrize(
    "change, got",
    [
        ({"status": 404}, "HTTP 404 Not Found"),
        ({"status": 503}, "HTTP 503 Service Unavailable"),
        ({"data": b"<html>Sign in to this network"}, "another file, whose SHA-256 does not begin"),
        ({"data": b""}, "another file, whose SHA-256 does not begin"),
        ({"claims": str(2**40)}, "a file of 1,099,511,627,776 bytes"),
        ({"location": "ftp://127.0.0.1/x"}, "a redirect to ftp://127.0.0.1/x, not to https"),
        ({"location": "file:///etc/passwd"}, "a redirect to file:///etc/passwd, not to https|HTTP"),
        ({"location": "/again"}, "HTTP 302 .*infinite loop"),
        ({"cuts": [0]}, "0 of 1,024,000 bytes, where the connection ended"),
        ({"cuts": [0], "stalls": True}, "a connection that broke: timed out"),
    ],
)
def test_answer_of_no_use_is_an_error_with_a_way_by_hand(
    publisher, monkeypatch, cache, change, got
):
    released = release(publisher, NAME)
    monkeypatch.setattr(download, "_SECONDS", 0.2)
    vars(publisher).update(change)
    with pytest.raises(UserError, match=got) as caught:
        fetch(released)
    path = cache / released.file
    assert str(caught.value).startswith(f"{NAME}: expected its file from {released.url}, got ")
    assert str(caught.value).endswith(f"put it at {path}") and not path.exists()

    # as the error says
    path.write_bytes(DATA)
    asked = len(publisher.asked)
    assert fetch(released) == path and len(publisher.asked) == asked


def test_host_that_is_not_there_is_an_error_with_a_way_by_hand(publisher):
    released = release(publisher, NAME)
    gone = type(released)(**{**vars(released), "url": released.url.replace("127.0.0.1", "[::1]")})
    with pytest.raises(UserError, match="got no answer: .* Try again later, set https_proxy"):
        fetch(gone)


def test_more_bytes_than_any_weights_have_end_a_download(publisher, monkeypatch):
    publisher.claims = ""
    monkeypatch.setattr(download, "_LARGEST", 600_000)
    with pytest.raises(UserError, match="more than 600,000 bytes"):
        fetch(release(publisher, NAME))


def test_redirects_are_followed_but_not_out_of_https(publisher):
    released = release(publisher, NAME)
    publisher.location = publisher.url("moved/x.pth")
    assert fetch(released).read_bytes() == DATA
    request = download.urllib.request.Request("https://example.org/x")
    with pytest.raises(download._FinalError, match="a redirect to http://.*, not to https"):
        download._HttpAlone().redirect_request(
            request, None, 302, "Found", {}, "http://example.org/x"
        )


def test_proxy_of_the_environment_is_used(publisher, monkeypatch):
    released = release(publisher, NAME)
    far = type(released)(**{**vars(released), "url": "http://weights.invalid/x-" + released.file})
    monkeypatch.setenv("http_proxy", publisher.url(""))
    assert fetch(far).read_bytes() == DATA
    assert publisher.asked[0][0] == far.url


def test_damaged_file_of_the_cache_is_replaced_and_reported(publisher, cache, capsys):
    released = release(publisher, NAME)
    cache.mkdir(parents=True)
    (cache / released.file).write_bytes(DATA[:-1])
    assert fetch(released).read_bytes() == DATA
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"{cache / released.file} is damaged, as its SHA-256 shows: it is removed",
        f"{NAME}: downloading {released.url} to {cache / released.file}",
    ]


def test_one_of_several_processes_downloads(publisher, capsys):
    """Threads with files of their own lock each other out as processes do."""
    released = release(publisher, NAME)
    publisher.cuts = [100_000]
    publisher.stalls = True
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(fetch, released)
        wait_until(lambda: publisher.asked)
        others = [pool.submit(fetch, released) for _ in range(3)]
        wait_until(lambda: "waiting for another process" in capsys.readouterr().err)
        publisher.ending.set()
        assert {each.result() for each in (first, *others)} == {cache_folder() / released.file}
    assert [wanted for _, wanted in publisher.asked] == [None, "bytes=100000-"]
    assert files_in(cache_folder()) == [released.file]


def test_disk_without_locks_keeps_processes_apart(publisher, cache, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    released = release(publisher, NAME)
    publisher.cuts = [100_000]
    used = []
    receive = download._receive
    monkeypatch.setattr(
        download, "_receive", lambda url, part: (used.append(part.name), receive(url, part))
    )
    assert fetch(released).read_bytes() == DATA
    assert all(name != f"{released.file}.part" for name in used)
    assert [name for name in files_in(cache) if name != f"{released.file}.part"] == [released.file]


def test_cache_that_cannot_be_written_is_an_error(publisher, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="a place to keep downloaded weights, got Not a directory"):
        fetch(release(publisher, NAME))
    assert not publisher.asked


def test_full_disk_is_reported_as_one(publisher, monkeypatch, cache):
    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

    def opening(path, mode):
        file = open(path, mode)  # noqa: SIM115  # the caller closes it
        return Full(file) if str(path).endswith(".part") and mode == "wb" else file

    monkeypatch.setattr(download, "open", opening, raising=False)
    with pytest.raises(UserError, match="a place to keep .*, got No space left on device. Free"):
        fetch(release(publisher, NAME))


def test_interrupted_download_leaves_what_it_has_and_no_lock(publisher, monkeypatch, cache):
    released = release(publisher, NAME)
    read = download._read
    calls = []

    def interrupted(answer):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return read(answer)

    monkeypatch.setattr(download, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(released)
    assert files_in(cache) == [f"{released.file}.part"]
    done = threading.Thread(target=functools.partial(fetch, released))
    done.start()
    done.join(30)
    assert (cache / released.file).read_bytes() == DATA


@pytest.mark.parametrize(
    "changes, name",
    [
        ({"depth": 50}, "mmaction2/slowonly_r101_omni_8x8x1_kinetics400_rgb"),
        ({"depth": 50, "name": "slowonly"}, "mmaction2/slowonly_r101_omni_8x8x1_kinetics400_rgb"),
        ({"depth": 50}, "mmaction2/slowonly_r50_omni_4x16x1_kinetics400_rgb"),
        ({"depth": 101, "name": "slowonly"}, "torchvision/resnet50"),
    ],
)
def test_weights_of_another_network_are_refused_before_the_download(monkeypatch, changes, name):
    monkeypatch.setattr(download, "_receive", lambda *_: pytest.fail("a download"))
    with pytest.raises(UserError, match=f"model.pretrained: expected weights for .*got {name}, a "):
        check_pretrained(ModelConfig(**changes, pretrained=name))


@pytest.mark.parametrize(
    "name, advice",
    [
        ("torchvision/resnet5", "Did you mean 'torchvision/resnet50'?"),
        ("torchvison/resnet50", "Did you mean 'torchvision/resnet50'?"),
        ("resnet101", "Did you mean 'torchvision/resnet101'?"),
        ("resnet50_swsl", "Did you mean 'facebookresearch/resnet50_swsl'?"),
        ("mmaction2/tsn", "`omnidali help weights` lists the names."),
        (
            "mmaction2/slowonly_r50_omni_4x16x1_kinetics400_rgb_20200926-51b1f7ea.pth",
            "Did you mean 'mmaction2/slowonly_r50_omni_4x16x1_kinetics400_rgb'?",
        ),
    ],
)
def test_unknown_name_is_refused_with_the_nearest(name, advice):
    with pytest.raises(UserError) as caught:
        check_pretrained(ModelConfig(pretrained=name))
    assert advice in str(caught.value) and str(caught.value).startswith(f"{name}: expected ")


def test_every_command_with_a_checkpoint_takes_names(tmp_path, capsys):
    out = str(tmp_path / "x.pth")
    assert cli.main(["export", "--checkpoint", "torchvision/resnet5", "--out", out]) == 2
    assert "Did you mean 'torchvision/resnet50'?" in capsys.readouterr().err


def test_digits_are_those_of_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert download._has_digits(tmp_path / "x", hashlib.sha256(b"abc").hexdigest()[:8])
    assert not download._has_digits(tmp_path / "x", "00000000")
