"""The processes of one run look after one another: when one was killed, has failed or hangs, the others say which, and end.

Each gives a sign of life every second, from a thread of its own, so that one that is at work for hours is not taken for dead.
Signs go through the store in which the processes met (`MASTER_ADDR`, `MASTER_PORT`), beside torch's collectives, which would
wait for as long as their timeout lets them, and which do not know who is missing.
"""

import datetime
import os
import sys
import threading
import time

import torch.distributed as dist

BEAT = 1.0  # seconds between two signs of life
SILENCE = 30.0  # seconds without one after which a process counts as lost
LOOK = 4.0  # the same where a connection broke, so that one of them is known to be gone


class Peers:
    """The others, and the threads that give signs of life and look for those of the next process.

    Args:
        rank: of this process. world: how many there are.
    """

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        timeout = datetime.timedelta(seconds=SILENCE)
        self.store = dist.TCPStore(address, port, is_master=False, timeout=timeout, wait_for_workers=False)
        self.left = threading.Event()
        self.answered = time.monotonic()
        for work in (self._watch, self._guard):
            threading.Thread(target=work, daemon=True).start()

    def leave(self) -> None:
        """This process has done its part."""
        self.left.set()
        try:
            self.store.add(f"peers/left/{self.rank}", 1)
        except RuntimeError:  # the process that holds the store has left already
            return

    def lost(self) -> int | None:
        """Who is no more, looked for during some seconds after a connection broke; None where all give signs of life."""
        try:
            others = [rank for rank in range(self.world) if rank != self.rank]
            before = {rank: self._signs(rank) for rank in others}
            time.sleep(LOOK)
            return self._agreed([rank for rank in others if self._signs(rank) == before[rank]])
        except RuntimeError:
            return 0  # it holds the store

    def describe(self, lost: int) -> str:
        return (
            f"process {lost} of {self.world} (from 0 on) gives no sign of life: it was killed, has failed or hangs; see what "
            "it said last, end it if it is still there, and start all of them again (a training with --auto_resume)."
        )

    def _signs(self, rank: int) -> int:
        return self.store.add(f"peers/alive/{rank}", 0)

    def _agreed(self, silent: list[int]) -> int | None:
        """The first loss that anybody noticed: those who noticed it end and are silent as well."""
        if self.store.check(["peers/lost"]):
            return int(self.store.get("peers/lost"))
        missing = [rank for rank in silent if not self.store.add(f"peers/left/{rank}", 0)]
        return int(self.store.compare_set("peers/lost", "", str(missing[0]))) if missing else None

    def _watch(self) -> None:
        """Signs of life, and a look at the next process', which may keep the others waiting for hours."""
        following, seen = (self.rank + 1) % self.world, -1
        heard = last = time.monotonic()
        while not self.left.wait(BEAT):
            now = time.monotonic()
            heard, last = now if now - last > 5 * BEAT else heard, now  # all were stopped, this one too: it had no ears
            try:
                self.store.add(f"peers/alive/{self.rank}", 1)
                signs = self._signs(following)
                heard, seen = (heard, seen) if signs == seen else (now, signs)
                lost = self._agreed([following] if now - heard > SILENCE else [])
            except RuntimeError:  # the store is gone, which `_guard` says
                continue
            self.answered = time.monotonic()
            if lost is not None:
                self._end(lost)

    def _guard(self) -> None:
        """The store is of the first process: where it does not answer, that one is lost."""
        last = time.monotonic()
        while not self.left.wait(BEAT):
            now = time.monotonic()
            if now - last > 5 * BEAT:
                self.answered = now
            last = now
            if now - self.answered > SILENCE:
                self._end(0)

    def _end(self, lost: int) -> None:
        if self.left.wait(2 * LOOK):  # a broken connection has told the main thread, which saves what was learnt
            return
        rank = f" (process {self.rank})" if self.rank else ""
        sys.stderr.write(f"error{rank}: {self.describe(lost)}\n")  # `_exit` leaves no time for the frame of an entry point
        sys.stderr.flush()
        os._exit(2)
