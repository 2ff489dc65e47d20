"""What a process is told before torch is imported: how its memory is handed out, and how its threads wait."""

import contextlib
import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_LARGE = 32 << 20  # bytes; the largest threshold that glibc takes
_KEPT = 512 << 20
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # the standard's, GNU's and Intel's words for it
_SPINS = 2000  # some ten microseconds: two operations that follow each other are nearer than that


def let_threads_sleep() -> None:
    """Let OpenMP's threads sleep when they have waited for each other for a moment, unless the user has said how they wait.

    Between two operations a thread spins, to notice at once when the next one begins, by default for milliseconds. Where others
    use the cores as well (a second run, a container's quota), it spins on the very core that the thread it waits for should run
    on: two runs on two cores took five times as long as they needed. Without any spinning they do not, but a run that has
    the machine to itself is up to twice as slow, as waking a thread takes longer than many operations. So GNU's threads, those
    of torch on Linux, spin for a moment; Intel's have no such unit and sleep at once.

    The libraries read this once, when they are loaded: nothing changes where torch has been imported before.
    """
    if not any(name in os.environ for name in _WAITING):
        os.environ.update(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT=str(_SPINS))  # GNU's heeds the count alone


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks instead of returning each to Linux at once, and take huge pages for large ones.

    A network frees and allocates maps of many megabytes all the time; as glibc is set by default, most of them are given back
    and mapped anew, and clearing their pages can take longer than the arithmetic. Nothing happens on other systems, nor where
    the user has set glibc's or torch's own environment variables.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch at its first allocation
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)


def return_freed_memory() -> None:
    """Give what is kept back to Linux, so that the memory of the process is what is in use.

    Between pictures of different sizes: what one has freed lies in pieces between the small things that stay, which another's
    maps do not fit, so that hundreds of sizes would take twice the memory of one.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
