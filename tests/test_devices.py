"""Which device each rank takes: never a GPU that another rank has, and none of CUDA on a CPU."""

import importlib
import multiprocessing
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from conftest import SOURCES, free_port
from helpers.fake_device import FakeWork, Memory
from helpers.program_runs import CONFIG
from helpers.recorder import small_model
from helpers.running import failing
from omnidali.cli import main as cli
from omnidali.config.files import shipped_path
from omnidali.config.load import load_config
from omnidali.config.schema import ClipConfig
from omnidali.demo import run_demo
from omnidali.distributed.devices import _check, _Choice, _choose, count_gpus, take_device
from omnidali.distributed.ranks import Ranks, end_process_group, start_process_group
from omnidali.errors import UserError
from omnidali.experiments.training_runs import check_experiment, choose_ranks
from omnidali.loading import fusion
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.train_plan import TrainPlan
from omnidali.training import model_setup

ROOT = Path(__file__).parent.parent


def see_gpus(patch, uuids):
    """Let torch see GPUs with these UUIDs; returns the list of those that become the current one.

    Args:
        patch: a MonkeyPatch.
        uuids: of the GPUs, by number.
    """
    taken = []
    patch.setattr(torch.cuda, "is_available", lambda: bool(uuids))
    patch.setattr(torch.cuda, "device_count", lambda: len(uuids))
    patch.setattr(torch.cuda, "set_device", taken.append)
    patch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=uuids[index])
    )
    return taken


# GPUs that each of two ranks sees, the setting, and the device of each or the refusal
TOGETHER = {
    "a GPU each": (["ab", "ab"], "auto", ["cuda:0", "cuda:1"]),
    "srun --gpus-per-task=1": (["a", "b"], "cuda", ["cuda:0", "cuda:0"]),
    "srun --gpus-per-task=2": (["ab", "cd"], "auto", ["cuda:0", "cuda:1"]),
    "no GPU": (["", ""], "auto", ["cpu", "cpu"]),
    "the CPU on a machine with GPUs": (["ab", "ab"], "cpu", ["cpu", "cpu"]),
    "one GPU for both": (
        ["a", "a"],
        "auto",
        "device: expected a GPU for each rank, got one GPU for ranks 0, 1, which see 1 GPU."
        " Start one rank",
    ),
    "a GPU for one alone": (
        ["a", ""],
        "auto",
        "device: expected a GPU for each rank, or for none, got no GPU on rank 1 of 2. Mend CUDA",
    ),
    "no GPU for cuda on one": (["a", ""], "cuda", "device: expected cuda: a GPU, got no GPU on r"),
}


def take_devices(rank, port, found):
    """Join a job of two ranks; reports what ``take_device`` gives in each case of ``TOGETHER``."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    ranks = start_process_group()
    results = {}
    for name, (visible, wanted, _) in TOGETHER.items():
        with pytest.MonkeyPatch.context() as patch:
            see_gpus(patch, visible[rank])
            try:
                results[name] = str(take_device(ranks, wanted).device)
            except UserError as error:
                results[name] = str(error)
    found.put((rank, results))
    end_process_group()


@pytest.fixture(scope="module")
def context():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["omnidali.cli.main", "omnidali.distributed.devices"])
    return context


def run_two(context, work, *arguments):
    """Run ``work(rank, port, *arguments)`` on two ranks; returns their exit codes."""
    with free_port() as port:
        processes = [
            context.Process(target=work, args=(rank, port, *arguments)) for rank in range(2)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(300)
    return [process.exitcode for process in processes]


@pytest.fixture(scope="module")
def taken(context):
    found = context.SimpleQueue()
    assert run_two(context, take_devices, found) == [0, 0]
    results = dict(found.get() for _ in range(2))
    return [results[rank] for rank in range(2)]


@pytest.mark.parametrize("case", TOGETHER)
def test_ranks_take_gpus_of_their_own_or_learn_why_not(taken, case):
    _, _, expected = TOGETHER[case]
    if isinstance(expected, list):
        assert [result[case] for result in taken] == expected
    else:  # all ranks have the same error
        assert taken[0][case] == taken[1][case] and taken[0][case].startswith(expected)


def train_on_one_gpu(rank, port, folder, environment):
    """Train on one of two ranks that see one GPU, and end as a program; stderr is a file."""
    os.environ.update(environment(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with open(folder / f"stderr{rank}", "w") as log, pytest.MonkeyPatch.context() as patch:
        os.dup2(log.fileno(), 2)
        see_gpus(patch, "a")
        sys.exit(cli.main(["train", "--config", str(folder / "c.yaml")]))


def torchrun_environment(rank):
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
    }


def srun_environment(rank):
    return {
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURM_NODEID": "0",
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_STEP_NODELIST": "vm",
        "SLURM_TASK_PID": str(os.getpid()),
    }


@pytest.mark.parametrize("environment", [torchrun_environment, srun_environment])
def test_too_few_gpus_end_all_ranks_with_one_message(context, tmp_path, environment):
    (tmp_path / "c.yaml").write_text("sources: {k: {kind: video}}\ntrain: {steps: 1}\n")
    assert run_two(context, train_on_one_gpu, tmp_path, environment) == [2, 2]
    texts = [(tmp_path / f"stderr{rank}").read_text() for rank in range(2)]
    assert "".join(texts).count("expected a GPU for each rank") == 1
    assert "device=cpu" in texts[0]


@pytest.mark.parametrize("gpus, local_rank, index", [("abcdefgh", 3, 3), ("a", 3, 0), ("ab", 3, 1)])
def test_rank_takes_a_gpu_that_it_sees(monkeypatch, gpus, local_rank, index):
    """With --gpus-per-task=1 each task sees its own GPU alone, as number 0."""
    current = see_gpus(monkeypatch, gpus)
    number, choice = _choose(local_rank, "auto")
    assert (number, choice.gpu, choice.visible) == (index, gpus[index], len(gpus))
    assert current == [index]


def test_advice_names_how_many_ranks_there_may_be():
    def refusal(*gpus, visible):
        with pytest.raises(UserError) as caught:
            _check([_Choice("auto", gpu, visible) for gpu in gpus])
        return str(caught.value)

    assert "Start 2 ranks in all" in refusal("a", "b", "a", "b", visible=2)
    # two launchers on one machine: both take the first one
    assert "CUDA_VISIBLE_DEVICES" in refusal("a", "a", visible=2)
    assert "CUDA_VISIBLE_DEVICES" not in refusal("a", "a", visible=1)


def test_cuda_without_a_gpu_is_refused_on_a_single_rank(monkeypatch, tmp_path, capsys):
    see_gpus(monkeypatch, "")
    for name in ("cuda", "hip"):
        monkeypatch.setattr(torch.version, name, None)
    (tmp_path / "c.yaml").write_text("sources: {k: {kind: video}}\ntrain: {steps: 1}\n")
    assert cli.main(["train", "--config", str(tmp_path / "c.yaml"), "device=cuda"]) == 2
    error = capsys.readouterr().err
    assert "device: expected cuda: a GPU, got no GPU here, as torch" in error
    assert "Install torch's build for your driver, or set device=cpu." in error

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(UserError, match="no GPU here that torch can use. Look at `nvidia-smi`"):
        take_device(Ranks(), "cuda")


def test_gpus_are_counted_as_the_setting_allows(monkeypatch):
    see_gpus(monkeypatch, "abc")
    assert [count_gpus(wanted) for wanted in ("auto", "cuda", "cpu")] == [3, 3, 0]
    see_gpus(monkeypatch, "")
    assert [count_gpus(wanted) for wanted in ("auto", "cpu")] == [0, 0]
    with pytest.raises(UserError, match="device: expected cuda"):
        count_gpus("cuda")


def test_rank_on_a_gpu_has_no_more_threads_than_its_share(monkeypatch):
    """torchrun gives each rank one, which is enough; srun leaves all cores to all."""
    counts = []
    see_gpus(monkeypatch, "a")
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    ranks = Ranks(core_sharers=4)
    for before in (1, 16):
        monkeypatch.setattr(torch, "get_num_threads", lambda before=before: before)
        take_device(ranks, "auto")
    take_device(ranks, "cpu")
    assert counts == [1, 4, 4]


def remove_dali(patch):
    """Let DALI and all that needs it fail to import, as where it is not installed."""
    for name in [*sys.modules]:
        if name.startswith(("nvidia.dali", "omnidali.pipelines", "omnidali.loading.dali_backend")):
            patch.delitem(sys.modules, name)
    patch.setitem(sys.modules, "nvidia.dali", None)


def test_gpu_takes_what_the_cpu_decodes_without_dali(monkeypatch, tables):
    """The loader's own work on a GPU is torch's alone; a fake device stands in for one."""
    sources = [replace(source, decode="cpu") for source in SOURCES.values()]

    def clips():
        plan = TrainPlan(tables, sources, ClipConfig(num_clips=2, size=32), 12, 5)
        with FusionIterator(plan, sources, threads=2, end=3) as loader:
            return [group.clips.clone() for batch in loader for group in batch.groups]

    expected = clips()
    remove_dali(monkeypatch)
    work = FakeWork(Memory())
    monkeypatch.setattr(fusion, "device_work", lambda device: work)
    for shown, wanted in zip(clips(), expected, strict=True):
        assert (shown - wanted).abs().max() < 1e-5
    with pytest.raises(ImportError):  # the control
        importlib.import_module("omnidali.pipelines")


class TouchedError(Exception):
    """Something has asked for a CUDA context."""


def test_run_on_the_cpu_touches_no_gpu_and_no_dali(
    monkeypatch, media_root, tmp_path, one_thread, capsys
):
    """Whatever makes a context calls _lazy_init. DALI may be missing."""
    see_gpus(monkeypatch, "a")
    monkeypatch.setattr(torch.cuda, "_lazy_init", failing(TouchedError))
    remove_dali(monkeypatch)
    (tmp_path / "c.yaml").write_text(CONFIG)
    monkeypatch.setattr(model_setup, "build_model", small_model)
    run = [f"data_root={media_root}", f"run_dir={tmp_path / 'run'}", "train.steps=2"]
    words = ["train", "--config", str(tmp_path / "c.yaml"), *run]
    assert cli.main([*words, "device=cpu"]) == 0, capsys.readouterr().err
    assert (tmp_path / "run/checkpoints/last.pt").exists()

    monkeypatch.setattr(torch.cuda, "get_device_properties", failing(TouchedError))
    with pytest.raises(TouchedError):  # the control
        cli.main([*words, "device=auto"])


def test_all_that_compute_take_their_device_from_the_setting():
    """Nothing else asks for GPUs, and who joins other ranks takes a device next."""
    for path in sorted([*ROOT.glob("omnidali/**/*.py"), *ROOT.glob("benchmarks/*.py")]):
        text = path.read_text()
        # doctor reports what it sees
        if path.parent.name != "doctor" and path.name != "devices.py":
            assert "cuda.is_available" not in text and "cuda.device_count" not in text, path
        if "start_process_group()" in text and path.name != "ranks.py":
            assert "take_device(" in text, path


def test_experiments_and_the_demo_take_as_many_ranks_as_there_are_gpus(monkeypatch, tmp_path):
    (tmp_path / "c.yaml").write_text(
        "sources: {k: {kind: video}}\nevaluation: {source: {kind: video}}\n"
        "train: {steps: 1, batch: 6}\n"
    )
    config = load_config(tmp_path / "c.yaml")
    demo = str(shipped_path("demo"))
    for gpus, ranks, of_demo in (("", 1, 2), ("a", 1, 1), ("abc", 3, 2), ("abcd", 3, 2)):
        see_gpus(monkeypatch, gpus)
        assert choose_ranks(config, None) == ranks  # four cannot share a batch of six
        assert choose_ranks(replace(config, device="cpu"), None) == 1
        assert run_demo._check(demo, [], []) == of_demo
        assert run_demo._check(demo, ["device=cpu"], []) == 2
    with pytest.raises(UserError, match="--ranks: expected at most 4.* or set device=cpu"):
        check_experiment(config, choose_ranks(config, 5), [0])
