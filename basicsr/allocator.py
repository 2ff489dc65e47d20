"""How the C library hands memory to torch on a CPU."""

import contextlib
import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_LARGE = 32 << 20  # bytes; the largest threshold that glibc takes
_KEPT = 512 << 20


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
    """Give what is kept back to Linux, so that the memory of the process is what is in use."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
