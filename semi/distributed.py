"""The processes that train one run together: those that torchrun started, or this one alone.

`Ranks` is the same object for both. A single process is a group of size 1 that communicates nothing, so that the
training has one code for one process and for many.

Each process trains on its share of the batch, which is drawn from its own rows of the unlabeled set, and keeps these
rows of the table. Rows are cut into contiguous blocks in the order of the ranks: noise removal keeps entries that tie
in the order of the rows, and so keeps the same ones however many processes there are.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from semi.config import USER_ERROR, ConfigError, DataConfig
from semi.device import pick_device
from semi.roll_call import LONGEST_ANSWER_S, RollCall, is_of_communication, this_process
from tracking.base import Row, Tracker
from tracking.local import exit_code_of

T = TypeVar("T")
RANK_STREAM = 2  # number of the random streams that tell processes apart; `semi.split` has the number before
PR_SET_PDEATHSIG = 1  # linux/prctl.h
MEETING = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells a process


@dataclass
class Ranks:
    """This process among those of the run.

    Attributes:
        device: of this process.
        rank, size: number of this process from 0, and of how many.
        local_rank: number of this process on its host.
        group: the processes, for what communicates by itself (`darp.solve`); None where there is one.
        roll_call: finds out who is missing.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    group: dist.ProcessGroup | None = None
    roll_call: RollCall | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes the folder, logs, and speaks."""
        return self.rank == 0

    def say(self, sentence: str) -> None:
        """Print one line to standard error, once for the run."""
        if self.is_first:
            print(sentence, file=sys.stderr)

    def rows(self, count: int) -> slice:
        """This process's block of `count` rows. Blocks are equal but for the last ones, as `torch.chunk` cuts them."""
        return block(count, self.rank, self.size)

    def seed(self, seed: int) -> int:
        """A seed of this process's own; the first one's is `seed` itself, so that one process alone is as it was."""
        return seed if self.is_first else derived_seed(seed, RANK_STREAM, self.rank)

    def sum_(self, values: Tensor) -> Tensor:
        """`values` summed over the processes, in place. All get the same bits. A GPU's stream waits, the host not."""
        if self.group is not None:
            dist.all_reduce(values, group=self.group)
        return values

    def mean_(self, tensors: list[Tensor]) -> None:
        """Replace float tensors of one type by their means over the processes."""
        if self.group is None or not tensors:
            return
        flat = self.sum_(torch.cat([tensor.reshape(-1) for tensor in tensors])) / self.size
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.reshape(tensor.shape))

    def whole(self, rows: Tensor, count: int) -> Tensor:
        """The processes' blocks of `count` rows put together, [count, ...], on each of them."""
        if self.group is None:
            return rows
        found = rows.new_zeros(count, *rows.shape[1:])
        found[self.rows(count)] = rows
        return self.sum_(found)

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers. Waits for all."""
        if self.group is None:
            return number
        found = torch.tensor(int(number))
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self.group)
        return int(found)

    def gather(self, value: T) -> list[T]:
        """The plain values of all processes, in their order, on each of them."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def by_first(self, work: Callable[[], T]) -> T:
        """What `work` returns on the first process, which alone does it. What it raises ends the others silently."""
        if self.group is None:
            return work()
        told: list[Any] = [None, None]
        if self.is_first:
            try:
                told = [work(), None]
            except BaseException as error:
                dist.broadcast_object_list([None, exit_code(error)], group=self.group)
                raise
        dist.broadcast_object_list(told, group=self.group)
        if told[1] is not None:
            raise SystemExit(told[1])
        result: T = told[0]
        return result

    def together(self, work: Callable[[], T]) -> T:
        """What `work` returns here. What it raises on any process ends all, and one of them raises it.

        `work` must not communicate: a process that fails in it would leave the others waiting.
        """
        if self.group is None:
            return work()
        result, problem = None, None
        try:
            result = work()
        except Exception as error:
            problem = error
        codes = self.gather(None if problem is None else exit_code(problem))
        failed = [rank for rank, code in enumerate(codes) if code is not None]
        if failed:
            if problem is not None and self.rank == failed[0]:
                raise problem
            raise SystemExit(codes[failed[0]])
        return result  # type: ignore[return-value]

    def host_by_host(self, work: Callable[[], T]) -> T:
        """As `together`, where the first process of each host is done before the others of it begin.

        It downloads what is not there, and they find it.
        """
        if self.local_rank == 0:
            found = self.together(work)
            self.together(lambda: None)
            return found
        self.together(lambda: None)
        return self.together(work)

    @contextmanager
    def on_first(self, context: AbstractContextManager[Any]) -> Iterator[None]:
        """Enter `context` on the first process alone."""
        with ExitStack() as stack:
            self.by_first(lambda: stack.enter_context(context) and None)
            yield

    def replicated(self, module: nn.Module) -> nn.Module:
        """`module` so that its gradients come out as their means over the processes, from the same weights on all.

        One forward pass of it belongs to one backward pass. Buffers are left alone.
        """
        if self.group is None:
            return module
        from torch.nn.parallel import DistributedDataParallel

        with warnings.catch_warnings():  # of a new name for broadcast_buffers, which torch 2.6 does not know
            warnings.simplefilter("ignore", FutureWarning)
            # static_graph finds out in the first step which parameters a method leaves without a gradient.
            return DistributedDataParallel(
                module, process_group=self.group, broadcast_buffers=False, static_graph=True
            )

    @contextmanager
    def naming_the_missing(self) -> Iterator[None]:
        """Where communication fails in the block, say once who does not answer, and end with exit code 1."""
        try:
            yield
        except Exception as error:
            if self.roll_call is None or not is_of_communication(error):
                raise
            self.roll_call.call(self.rank)
            raise SystemExit(1) from None

    def leave(self) -> None:
        """End the communication. Every process of the group is at its end."""
        if self.group is not None:
            # Else their threads would live on into the end of the process, which may then abort.
            self.group = self.roll_call = None
            dist.destroy_process_group()


class OfFirst:
    """`tracker` on the first process alone. What ends the run there, such as an alert, ends it on all of them."""

    def __init__(self, tracker: Tracker, ranks: Ranks) -> None:
        self._tracker, self._ranks = tracker, ranks

    def start(self, config: Mapping[str, Any], state: Mapping[str, Any], first_epoch: int) -> None:
        self._ranks.by_first(lambda: self._tracker.start(config, state, first_epoch))

    def log(self, row: Row) -> None:
        self._ranks.by_first(lambda: self._tracker.log(row))

    def state_dict(self) -> dict[str, Any]:
        return self._tracker.state_dict() if self._ranks.is_first else {}

    def finish(self, exit_code: int) -> None:
        """Waits for nobody: after an error the others may be gone."""
        if self._ranks.is_first:
            self._tracker.finish(exit_code)


def block(count: int, rank: int, size: int) -> slice:
    """The rows of process `rank` of `size` among `count` rows."""
    each = -(-count // size)
    return slice(min(rank * each, count), min((rank + 1) * each, count))


def derived_seed(*numbers: int) -> int:
    """A seed in the range of torch's generators, another one for other numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def exit_code(error: BaseException) -> int:
    """The exit code of a training that ends with `error`."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, OSError):
        return exit_code_of(error)
    return USER_ERROR if isinstance(error, ValueError) else 1


def joined(config: DataConfig) -> tuple[Ranks, str]:
    """This process among those that torchrun started, and a sentence about its device, empty when all is as asked.

    Raises ConfigError, one line, where --nproc says another number of them or a host has too few GPUs.
    """
    size = world_size()
    if size == 1:
        device, note = pick_device(config.gpu)
        return Ranks(device), note
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    on_gpus = config.gpu not in ("", "cpu") and torch.cuda.is_available()
    end_with_parent()
    answer_s = min(LONGEST_ANSWER_S, config.dist_timeout_s / 4)
    timeout = timedelta(seconds=config.dist_timeout_s - answer_s)
    store, _, _ = next(rendezvous("env://", rank, size))
    store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)  # a restart keeps the store
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpus else "gloo", store=store, rank=rank, world_size=size, timeout=timeout
    )
    ranks = Ranks(torch.device("cpu"), rank, size, local_rank, dist.group.WORLD)
    ranks.roll_call = RollCall(store, ranks.gather(this_process()), config.dist_timeout_s, answer_s)

    def checked() -> tuple[torch.device, str]:
        if config.nproc not in (1, size):
            raise ConfigError(f"--nproc {config.nproc}: torchrun has started {size} processes; leave it out")
        return device_of(config.gpu, local_rank)

    try:
        ranks.device, note = ranks.together(checked)
    except BaseException:
        ranks.leave()
        raise
    if ranks.device.type == "cuda":
        torch.cuda.set_device(ranks.device)
    return ranks, note


def end_with_parent() -> None:
    """Let this process be asked to stop when what started it has ended, however that ended. On Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def world_size() -> int:
    """How many processes torchrun started for this run; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in MEETING) else 1


def device_of(gpu: str, local_rank: int) -> tuple[torch.device, str]:
    """`semi.device.pick_device` for one of several processes on a host: `gpu` is the one of the first of them."""
    device, note = pick_device(gpu)
    if device.type == "cpu":
        return device, note
    number, count = int(gpu) + local_rank, torch.cuda.device_count()
    if number >= count:
        raise ConfigError(
            f"--gpu {gpu}: process {local_rank} of this host would use GPU {number}, and {count} are visible; start "
            "fewer processes, or use --gpu cpu"
        )
    return torch.device("cuda", number), ""
