"""Two agents of torchrun, as on two machines, run one job."""

import pytest

from conftest import free_port
from helpers.launchers import crashing, two_agents
from helpers.running import assert_same, step_of, weights
from helpers.warm_process import state_of, wait_for_files, wait_until

pytestmark = pytest.mark.usefixtures("small_network")

ONE_MINUTE = 60  # within which all ranks end, as the README promises


@pytest.fixture
def port():
    with free_port() as port:
        yield port


def by_rendezvous(port):
    """The arguments of agents that find each other."""
    given = ["--rdzv-backend=c10d", "--rdzv-id=1", f"--rdzv-endpoint=127.0.0.1:{port}"]
    return lambda number: given


def by_number(port):
    """The arguments of agents that know the main one's address."""
    given = ["--master-addr=127.0.0.1", f"--master-port={port}"]
    return lambda number: [f"--node-rank={number}", *given]


def test_two_agents_train_as_one(whole_weights, options, tmp_path, port):
    with two_agents(
        tmp_path / "life", by_rendezvous(port), *crashing("train", tmp_path / "life", *options)
    ) as agents:
        for number, agent in enumerate(agents):
            assert agent.wait() == 0, (tmp_path / "life" / f"agent{number}.log").read_text()
    assert_same(whole_weights(2), weights(tmp_path / "run"))


def test_rank_that_fails_ends_both_agents_with_its_error(tmp_path, port):
    with two_agents(tmp_path, by_number(port), *crashing("rank", tmp_path, "user", 1)) as agents:
        codes = [agent.wait(2 * ONE_MINUTE) for agent in agents]
    outputs = [(tmp_path / f"agent{number}.log").read_text() for number in range(2)]
    assert codes == [1, 1], outputs
    assert "rank 1 ended: sources.web: expected one, got two. Mend it.\n" in outputs[0]
    for output in outputs:  # as torchrun reports it
        assert "traceback : sources.web: expected one, got two. Mend it.\n" in output


@pytest.mark.parametrize("killed", [0, 1])
def test_ranks_save_and_end_after_a_killed_agent(options, tmp_path, port, killed):
    folder = tmp_path / "life"
    program = crashing("train", folder, *options)
    with two_agents(folder, by_number(port), *program, OMNIDALI_WAITS="3") as agents:
        wait_for_files(folder, "waits0", "waits1", otherwise=agents[0].poll)
        ranks = [int((folder / f"waits{rank}").read_text()) for rank in range(2)]
        agents[killed].kill()
        wait_for_files(folder, f"received{killed}")
        (folder / "go").touch()
        for pid in ranks:
            wait_until(lambda pid=pid: state_of(pid) == "Z", ONE_MINUTE)
    assert [(folder / f"code{rank}").read_text() for rank in range(2)] == ["0", "0"]
    assert step_of(tmp_path / "run") > 2
