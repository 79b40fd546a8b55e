"""Memory of batches is used again, and freed now and then."""

import sys
import threading
import time

import numpy as np
import torch

from omnidali.loading.buffer_pool import BufferPool, Trimmer


def test_buffer_returns_to_the_pool_with_its_last_view():
    pool = BufferPool()
    device = torch.device("cpu")
    first = pool.take((4, 1000), torch.float32, device)
    place = first.data_ptr()
    view = first.view(-1)[:10]
    del first
    second = pool.take((4, 1000), torch.float32, device)
    assert second.data_ptr() != place  # a view of the first still lives
    del view
    assert pool.take((4, 990), torch.float32, device).data_ptr() == place
    # a source without a slot
    assert pool.take((0, 1, 32, 32, 3), torch.float32, device).shape == (0, 1, 32, 32, 3)


def test_trimmer_frees_unused_buffers_now_and_then(monkeypatch):
    pool = BufferPool()
    trim = Trimmer(pool, 2)
    freed = []
    held = [pool.take((3000,), torch.float32, torch.device("cpu")) for _ in range(4)]
    held.clear()
    monkeypatch.setattr(
        pool, "forget", lambda forget=pool.forget: (freed.append(len(pool._free)), forget())
    )
    trim()
    assert not freed
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    trim()
    trim()

    assert freed == [4] and not pool._free


def test_buffer_pool_survives_returns_at_any_moment():
    pool = BufferPool()
    device = torch.device("cpu")
    failed = []

    def work(seed):
        rng = np.random.default_rng(seed)
        held = []
        try:
            for _ in range(1500):
                tensor = pool.take((int(rng.integers(1, 5)) * 1000,), torch.float32, device)
                tensor.fill_(seed)
                held.append(tensor)
                if len(held) > 12:
                    assert all((one == seed).all() for one in held)
                    held.clear()
                    pool.forget()
        except BaseException as error:
            failed.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not failed
