"""The allocator's settings."""

import platform
import subprocess
import sys

import pytest

from alchemint.cli import allocator


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not allocator.keep_memory()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_freed_memory_stays_in_the_process() -> None:
    """A big block that is freed and taken again must not cost its page faults twice."""
    code = """if True:
        import ctypes, resource
        from alchemint.cli.allocator import keep_memory
        assert keep_memory()
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        def touch():
            block = libc.malloc(64 * 2**20)
            ctypes.memset(block, 1, 64 * 2**20)
            libc.free(ctypes.c_void_p(block))
        touch()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        touch()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100
