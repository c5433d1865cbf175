import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="heaps of threads are glibc's")

# Threads that all hold something at once, and how many heaps there are then (malloc_info(3)).
PROGRAM = """
import ctypes, sys, threading
{before}
barrier = threading.Barrier(5)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def hold():
    held = [libc.malloc(4000) for _ in range(50)]
    barrier.wait()
    barrier.wait()
    for some in held:
        libc.free(some)
threads = [threading.Thread(target=hold) for _ in range(4)]
for thread in threads:
    thread.start()
barrier.wait()
libc.fopen.restype, libc.fclose.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
file = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
barrier.wait()
"""


def heaps(folder: Path, before: str) -> int:
    """How many heaps a process has whose threads allocate, after ``before``."""
    report = folder / "heaps.xml"
    subprocess.run([sys.executable, "-c", PROGRAM.format(before=before), report], check=True)
    return report.read_text().count("<heap nr=")


def test_threads_share_a_heap(tmp_path: Path) -> None:
    """Four threads have one heap, where they would have five."""
    assert 1 == heaps(tmp_path, "from osamd.runtime import heap; heap.share()")
    assert 1 < heaps(tmp_path, "")


def test_a_server_shares_its_heap(tmp_path: Path) -> None:
    """Also one that uvicorn's own command starts; building an app changes nothing of the process."""
    assert 1 == heaps(tmp_path, f"sys.path.append({str(ROOT)!r}); import main")
    assert 1 < heaps(tmp_path, "from osamd.server.app import create_app; create_app()")
