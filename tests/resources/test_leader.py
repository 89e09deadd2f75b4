"""One of the processes on a host leads, whatever becomes of the others."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from otel_aimon.resources import leader as leader_module
from otel_aimon.resources.leader import Leader
from otel_aimon.resources.source import Notices

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="on Windows every process leads")

CHILD = """
import os, sys
from pathlib import Path
from otel_aimon.resources.leader import Leader
if len(sys.argv) > 2:
    os.setgroups([])
    os.setuid(int(sys.argv[2]))
leader = Leader(Path(sys.argv[1]))
for line in sys.stdin:
    command = line.strip()
    if command == "resign":
        leader.resign()
    print(leader.leads() if command == "leads" else "done", flush=True)
"""


class Candidate:
    """A process of its own that takes part in the election."""

    def __init__(self, path: Path, *more: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _ask(self, command: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def leads(self) -> bool:
        answer = self._ask("leads")
        assert answer in {"True", "False"}
        return answer == "True"

    def resign(self) -> None:
        assert self._ask("resign") == "done"

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def end(self) -> str:
        """What it wrote to stderr."""
        return self._process.communicate()[1]


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "otel-aimon" / "host.lock"


@pytest.fixture
def candidates(lock: Path) -> Iterator[list[Candidate]]:
    processes = [Candidate(lock) for _ in range(4)]
    yield processes
    for process in processes:
        process.end()


@pytest.fixture(autouse=True)
def own_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader_module, "notices", Notices())


def leading(candidates: list[Candidate]) -> list[Candidate]:
    return [candidate for candidate in candidates if candidate.leads()]


def test_one_of_four_processes_leads_and_goes_on_leading(candidates: list[Candidate]) -> None:
    first = leading(candidates)
    assert len(first) == 1
    assert leading(candidates) == first


def test_when_the_leader_is_killed_the_next_that_asks_takes_over(candidates: list[Candidate]) -> None:
    (leader,) = leading(candidates)
    leader.kill()
    others = [candidate for candidate in candidates if candidate is not leader]
    assert leading(others) == [others[0]]


def test_who_resigns_leaves_the_lead_to_the_next_that_asks(candidates: list[Candidate]) -> None:
    first, second, *_ = candidates
    assert first.leads()
    first.resign()
    assert leading(candidates[1:]) == [second]
    assert not first.leads()


def test_two_elections_of_one_process_do_not_share_a_lead(lock: Path) -> None:
    first, second = Leader(lock), Leader(lock)
    assert first.leads()
    assert not second.leads()
    first.resign()
    assert second.leads()
    second.resign()


def in_child(act: Callable[[], bool]) -> bool:
    """Fork, and say what ``act`` returned in the child."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(int(act()))
        except BaseException:
            os._exit(2)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in {0, 1}
    return bool(status)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_lead_and_the_parent_goes_on(lock: Path) -> None:
    leader = Leader(lock)
    assert leader.leads()

    def act() -> bool:
        leader.after_fork_in_child()
        return leader.leads()

    assert not in_child(act)
    assert leader.leads()
    other = Candidate(lock)
    assert not other.leads()
    other.end()
    leader.resign()


FAMILY = """
import os, signal, sys
from pathlib import Path
from otel_aimon.resources.leader import Leader
leader = Leader(Path(sys.argv[1]))
assert leader.leads()
if os.fork() == 0:
    leader.after_fork_in_child()
    print(leader.leads(), flush=True)
    sys.stdin.readline()
    print(leader.leads(), flush=True)
    os._exit(0)
signal.pause()
"""


def test_when_a_parent_dies_its_child_takes_over(lock: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", FAMILY, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdin is not None and parent.stdout is not None
    assert parent.stdout.readline() == "False\n"
    parent.kill()
    parent.wait()
    parent.stdin.write("\n")
    parent.stdin.flush()
    assert parent.stdout.readline() == "True\n"
    parent.stdin.close()
    parent.stdout.close()


def test_a_program_that_the_leader_starts_does_not_keep_the_lock(lock: Path) -> None:
    leader = Leader(lock)
    assert leader.leads()
    with subprocess.Popen(["sleep", "60"], close_fds=False) as program:
        leader.resign()
        other = Leader(lock)
        assert other.leads()
        other.resign()
        program.kill()


def test_who_leads_by_a_file_that_was_removed_asks_again(lock: Path) -> None:
    first, second = Leader(lock), Leader(lock)
    assert first.leads()
    lock.unlink()
    lock.parent.rmdir()
    assert second.leads()
    assert not first.leads()
    assert second.leads()
    second.resign()


def test_a_descriptor_that_the_application_took_over_is_left_alone(lock: Path, tmp_path: Path) -> None:
    leader = Leader(lock)
    assert leader.leads()
    assert leader._file is not None
    # As a daemon does that closes all it has, and then opens files of its own.
    with (tmp_path / "own").open("w") as own:
        os.dup2(own.fileno(), leader._file)
        number = leader._file
        assert leader.leads()
        # By a lock that it took anew, as the first one went with the descriptor.
        assert not Leader(lock).leads()
        leader.resign()
        os.write(number, b"still open")
        os.close(number)
    assert (tmp_path / "own").read_text() == "still open"


def test_a_descriptor_that_the_application_closed_costs_the_lead_only(lock: Path) -> None:
    leader, other = Leader(lock), Candidate(lock)
    assert leader.leads()
    assert leader._file is not None
    os.close(leader._file)
    assert other.leads()
    assert not leader.leads()
    other.kill()
    assert leader.leads()
    leader.resign()
    other.end()


def test_what_is_made_is_open_to_all_users(lock: Path) -> None:
    before = os.umask(0o077)
    try:
        leader = Leader(lock)
        assert leader.leads()
    finally:
        os.umask(before)
    assert stat.S_IMODE(lock.stat().st_mode) == 0o666
    assert stat.S_IMODE(lock.parent.stat().st_mode) == 0o1777
    leader.resign()


@pytest.fixture
def open_lock() -> Iterator[Path]:
    """A lock path that other users can reach, unlike those below pytest's own directory."""
    directory = Path(tempfile.mkdtemp(prefix="otel-aimon-test-"))
    directory.chmod(0o755)
    yield directory / "otel-aimon" / "host.lock"
    shutil.rmtree(directory)


def test_processes_of_two_users_elect_one(open_lock: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can start processes of other users")
    one, other = Candidate(open_lock, "65534"), Candidate(open_lock, "65533")
    # Made by root: a user may only open what is there.
    mine = Leader(open_lock)
    assert mine.leads()
    assert not one.leads()
    mine.resign()
    assert one.leads()
    assert not other.leads()
    one.kill()
    assert other.leads()
    assert "otel-aimon" not in other.end()
    one.end()


def notices_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def expected_notice(why: str) -> str:
    return (
        "otel-aimon cannot agree with the other processes of this host on which of them exports what all of "
        f"them see (lock file: {why}), so each one does, and sums over processes count it several times. Set "
        "OTEL_AIMON_LOCK_DIRECTORY to a directory of this host that all of them may write to."
    )


def test_without_a_usable_directory_every_process_leads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    leaders = [Leader(tmp_path / "file" / f"{name}.lock") for name in ("host", "container")]
    for _ in range(3):
        assert [leader.leads() for leader in leaders] == [True, True]
    assert notices_of(caplog) == [expected_notice("ENOTDIR")]


def test_where_nothing_may_be_written_every_process_leads(open_lock: Path) -> None:
    if os.geteuid() == 0:
        open_lock.parent.mkdir(mode=0o755)
        candidate = Candidate(open_lock, "65534")
    else:
        open_lock.parent.mkdir(mode=0o555)
        candidate = Candidate(open_lock)
    assert candidate.leads()
    assert candidate.leads()
    assert candidate.end().strip() == expected_notice("EACCES")


def test_a_lock_that_becomes_usable_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = tmp_path / "locks"
    directory.touch()
    first, second = Leader(directory / "host.lock"), Leader(directory / "host.lock")
    assert first.leads() and second.leads()
    directory.unlink()
    assert first.leads()
    assert not second.leads()
    assert len(notices_of(caplog)) == 1
    first.resign()
    shutil.rmtree(directory)
    directory.touch()
    assert first.leads() and second.leads()
    # It was well in between.
    assert len(notices_of(caplog)) == 2


def link(path: Path) -> None:
    target = path.parent / "precious"
    target.write_text("content")
    path.symlink_to(target)


@pytest.mark.parametrize(
    "make, why", [(link, "ELOOP"), (os.mkfifo, "not a file"), (Path.mkdir, "not a file")]
)
def test_what_is_no_plain_file_is_left_alone(
    lock: Path, make: Callable[[Path], None], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    lock.parent.mkdir()
    make(lock)
    assert Leader(lock).leads()
    assert notices_of(caplog) == [expected_notice(why)]
    if make is link:
        assert lock.read_text() == "content"


def test_a_directory_behind_a_link_is_left_alone(lock: Path, caplog: pytest.LogCaptureFixture) -> None:
    elsewhere = lock.parent.parent / "elsewhere"
    elsewhere.mkdir()
    lock.parent.symlink_to(elsewhere)
    assert Leader(lock).leads()
    assert list(elsewhere.iterdir()) == []
    assert notices_of(caplog) == [expected_notice("ENOTDIR")]


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_a_file_system_without_locks(
    lock: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_file: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    before = open_files()
    monkeypatch.setattr(leader_module.fcntl, "flock", refuse)
    assert Leader(lock).leads()
    assert notices_of(caplog) == [expected_notice("ENOLCK")]
    assert open_files() == before


def test_no_descriptor_is_left_behind_by_asking(lock: Path) -> None:
    first, second = Leader(lock), Leader(lock)
    assert first.leads()
    before = open_files()
    for _ in range(10):
        assert first.leads() and not second.leads()
    assert open_files() == before
    first.resign()
