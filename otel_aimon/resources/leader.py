"""Elects one of the processes on a host, by a lock that the kernel releases when its holder ends.

The lock is :func:`fcntl.flock` on an empty file: it is free again as soon as the process is gone,
whatever ended it, and the next process that asks has it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import sys
import threading
from pathlib import Path

from otel_aimon.resources.source import notices

if sys.platform != "win32":
    import fcntl

DIRECTORY = Path("/tmp/otel-aimon")  # noqa: S108 - shared by all users on purpose; see _open_directory
"""One for all users of a host, so not that of ``TMPDIR``, which may be a user's own."""

_DIRECTORY_MODE = 0o1777
"""As that of ``/tmp``: everyone may add a file, nobody may remove another's."""

_FILE_MODE = 0o666
"""Whoever may open the file may lead."""


class _UnusableError(Exception):
    """There is no lock to be had, by nobody."""


class Leader:
    """One process's part in an election.

    A process leads from the moment that it has the lock until it ends, resigns, or the file is removed. Where
    no lock can be had (a directory that cannot be written to, a file system without locks) every process leads
    and says so once: what it exports may then be there several times over. On Windows every process leads.

    Args:
        path: Of the lock file, on a file system of this host; made with its directory when missing. Neither
            of the two is followed when it is a symbolic link.
    """

    def __init__(self, path: Path = DIRECTORY / "host.lock") -> None:
        self._path = path
        # One for all files of a directory: what ails one of them mostly ails all.
        self._notice = f"lock files in {path.parent}"
        self._file: int | None = None
        self._identity: tuple[int, int] | None = None
        self._lock = threading.Lock()

    def leads(self) -> bool:
        """Whether this process leads now; takes the lead when nobody has it."""
        if sys.platform == "win32":
            return True
        with self._lock:
            try:
                return self._holds() or self._take()
            except _UnusableError as why:
                notices.say(
                    self._notice,
                    logging.WARNING,
                    "otel-aimon cannot agree with the other processes of this host on which of them exports "
                    "what all of them see (lock file: %s), so each one does, and sums over processes count it "
                    "several times. Set OTEL_AIMON_LOCK_DIRECTORY to a directory of this host that all of them "
                    "may write to.",
                    why,
                )
                return True

    def _holds(self) -> bool:
        """Whether the lock is ours, and on the file that others see under this path."""
        if self._file is None:
            return False
        if self._still_open() and _identity_at(self._path) == self._identity:
            return True
        # Someone cleaned the directory up: another process may have made a new file by now.
        self._let_go()
        return False

    def _take(self) -> bool:
        file = _open(self._path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = os.fstat(file)
        except BlockingIOError:
            os.close(file)
            return False
        except OSError as error:
            os.close(file)
            raise _UnusableError(_name(error)) from error
        self._file, self._identity = file, (found.st_dev, found.st_ino)
        notices.forget(self._notice)
        return self._holds()

    def _still_open(self) -> bool:
        """Whether the descriptor is ours still: a process may close all it has and open others."""
        try:
            found = os.fstat(self._file)  # type: ignore[arg-type]
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def _let_go(self) -> None:
        file, ours = self._file, self._still_open() if self._file is not None else False
        self._file = self._identity = None
        if ours and file is not None:
            with contextlib.suppress(OSError):
                os.close(file)

    def resign(self) -> None:
        """Leave the lead to whoever asks next."""
        with self._lock:
            self._let_go()

    def after_fork_in_child(self) -> None:
        """Close the parent's lock here, at once: it is held for as long as any process has it open.

        The parent's own descriptor keeps the lock.
        """
        self._lock = threading.Lock()
        self._let_go()


def _open(path: Path) -> int:
    try:
        directory = _open_directory(path.parent)
        try:
            file = _open_file(path.name, directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise _UnusableError(_name(error)) from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise _UnusableError("not a file")
    return file


def _open_directory(path: Path) -> int:
    """Everyone may write to the directory above, so what is there may be anyone's: no link is followed."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        pass
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        # By another process, just now.
        return os.open(path, flags)
    directory = os.open(path, flags)
    with contextlib.suppress(OSError):
        os.fchmod(directory, _DIRECTORY_MODE)  # mkdir leaves out what the umask says
    return directory


def _open_file(name: str, directory: int) -> int:
    # To read is enough to lock, and a pipe must not make us wait. O_CREAT on a file of another user is
    # refused in such a directory (fs.protected_regular), so it is tried only where there is none.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(name, flags, dir_fd=directory)
    except FileNotFoundError:
        pass
    try:
        file = os.open(name, flags | os.O_CREAT | os.O_EXCL, _FILE_MODE, dir_fd=directory)
    except FileExistsError:
        return os.open(name, flags, dir_fd=directory)
    with contextlib.suppress(OSError):
        os.fchmod(file, _FILE_MODE)
    return file


def _identity_at(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, type(error).__name__)
