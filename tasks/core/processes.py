"""The processes of one training run, as the run itself sees them; a run of one process needs no care for it.

A launcher (see `tasks/launching.py`, `tasks/ray_training.py`) starts the same code once per process and sets RANK,
WORLD_SIZE and the rest of torchrun's variables. Rank 0 decides and writes; the others follow.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed


def rank() -> int:
    """Return this process's number, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Return how many processes share the run."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def wait_for_all() -> None:
    """Return once every process is here."""
    if world_size() > 1:
        distributed.barrier()


def agree(number: int) -> int:
    """Return rank 0's number in every process: what is decided by a clock or a disk must be decided once."""
    if world_size() == 1:
        return number
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    shared = torch.tensor([number], dtype=torch.int64, device=device)
    distributed.broadcast(shared, src=0)
    return int(shared.item())


def add_up(number: int, device: torch.device) -> torch.Tensor:
    """Return the sum of every process's number, without waiting for it on a GPU."""
    total = torch.tensor(float(number), device=device)
    distributed.all_reduce(total)
    return total


def is_lost_peer(error: Exception) -> bool:
    """Return whether an error only says that another process is gone: that one has the cause."""
    if world_size() == 1:
        return False
    return isinstance(error, distributed.DistError) or "gloo/transport" in str(error) or "NCCL" in str(error)


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Let rank 0 run the block before the others do, who then find on disk what it wrote."""
    if rank() > 0:
        wait_for_all()
    try:
        yield
    finally:
        if rank() == 0:
            wait_for_all()
