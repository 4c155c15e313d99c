"""Too much of something: processes, memory, time, output, files. Each limit ends the code, and for the right reason."""

import time

import pytest
from sandboxed import attempts, needs_landlock, said

pytestmark = [pytest.mark.integration, needs_landlock]


def test_a_fork_bomb_ends_at_the_limit_of_processes(place):
    began = time.monotonic()
    result = place.run(
        """
        import os
        print(os.getpid(), flush=True)
        while True:
            try:
                os.fork()
            except BlockingIOError:
                pass
        """,
        wall_s=1.0,
    )
    assert result.status in ("wall", "cpu") and time.monotonic() - began < 15
    counted = place.run(
        """
        import os, time
        made = 0
        try:
            while True:
                if os.fork() == 0:
                    time.sleep(20); os._exit(0)
                made += 1
        except BlockingIOError as failure:
            print(made + 1, failure.errno)
        """,
        processes=12,
    )
    assert said(counted) == ["12 11"]  # EAGAIN
    assert counted.wall_s < 5  # the sleepers are killed, not waited for


def test_ten_gigabytes_are_refused_by_the_allocator(place):
    result = place.run("x = bytearray(10 << 30)")
    assert result.exit_code == 1 and result.stderr.strip().endswith("MemoryError")
    assert result.peak_memory < 200 << 20


def test_many_processes_do_not_have_many_times_the_memory(place):
    result = place.run(
        """
        import os, time
        for _ in range(6):
            if os.fork() == 0:
                x = b"x" * (60 << 20)
                time.sleep(20)
        time.sleep(20)
        """,
        memory=200 << 20,
    )
    assert result.status == "memory" and 200 << 20 < result.peak_memory < 600 << 20, result


def test_shared_memory_counts_too(place):
    result = place.run(
        """
        import mmap, os, time
        for _ in range(6):
            if os.fork() == 0:
                shared = mmap.mmap(-1, 60 << 20)
                shared.write(b"x" * (60 << 20))
                time.sleep(20)
        time.sleep(20)
        """,
        memory=200 << 20,
    )
    assert result.status == "memory", result


def test_an_endless_loop_meets_the_cpu_limit(place):
    result = place.run(
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", cpu_s=1, wall_s=60
    )
    assert result.status == "cpu" and result.exit_code is None and 0.9 < result.cpu_s < 2.5


def test_an_endless_sleep_meets_the_wall_limit(place):
    result = place.run("import time, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)", wall_s=0.5)
    assert result.status == "wall" and 0.5 <= result.wall_s < 3


def test_huge_output_is_cut_and_ends_the_code(place):
    began = time.monotonic()
    result = place.run("import sys\nwhile True: sys.stdout.write('x' * 65536)", output=100_000)
    assert result.status == "output" and len(result.stdout) + len(result.stderr) == 100_000
    assert time.monotonic() - began < 8


def test_a_large_file_is_refused_and_a_full_folder_ends_it(place):
    lines = [
        "open('a', 'wb').write(b'x' * (3 << 20))",
        "os.posix_fallocate(os.open('b', os.O_CREAT | os.O_RDWR), 0, 3 << 20)",
    ]
    for line in attempts(
        place, lines, before="import os, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)", file=1 << 20
    ):
        assert line.startswith("OSError 27"), line  # EFBIG
    filled = place.run(
        """
        import time
        for i in range(30):
            open(f"f{i}", "wb").write(b"x" * (1 << 20))
        time.sleep(20)
        """,
        file=2 << 20,
        folder=10 << 20,
    )
    disk_full = filled.exit_code == 1 and "No space left on device" in filled.stderr
    assert disk_full if "mount" in filled.held else filled.status == "folder", filled


def test_empty_files_fill_the_folder_too(place):
    code = """
    import time
    for i in range(20_000):
        open(str(i), "w").close()
    time.sleep(20)
    """
    filled = place.run(code, folder=1 << 20)
    disk_full = filled.exit_code == 1 and "No space left on device" in filled.stderr
    assert disk_full if "mount" in filled.held else filled.status == "folder", filled


def test_folders_in_folders_end_neither_guard_nor_caller(place):
    code = """
    import os
    for _ in range(3000):
        os.mkdir("d")
        os.chdir("d")
    print("deep")
    """
    assert said(place.run(code)) == ["deep"]
