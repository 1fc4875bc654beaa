"""host/changes/lock.py: the lock's file, which any user may have written, and /proc/locks."""

import fcntl
import json
import os
from contextlib import suppress

from fuzz.harness import Harness
from fuzz.scratch import scratch
from kvmtest.host.changes.lock import LOCK, Lock, LockHeld
from kvmtest.host.tree import Tree

OWNER = {"pid": 1 << 22, "start": 5, "command": "kvmtest run", "guardian": None}
LOCKS = (
    "1: FLOCK  ADVISORY  WRITE 1 00:1a:17 0 EOF\n2: -> FLOCK  ADVISORY  WRITE 1 00:1a:17 0 EOF\n"
)


def parse(data: bytes) -> None:
    tree = Tree(scratch("lock"))
    owner, _, locks = data.partition(b"\0")
    lock = tree.path(LOCK)
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_bytes(owner)
    proc = tree.path("/proc/locks")
    proc.parent.mkdir(exist_ok=True)
    # Whatever its file says, the lock is held here.
    fd = os.open(lock, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        proc.write_bytes(locks.replace(b":17 ", b":%d " % os.fstat(fd).st_ino))
        with suppress(LockHeld):
            Lock.take(tree, patience=0.0)
    finally:
        os.close(fd)


HARNESS = Harness(
    parse=parse,
    seeds=(
        json.dumps(OWNER).encode() + b"\0" + LOCKS.encode(),
        json.dumps({**OWNER, "guardian": 1}).encode(),
        b"",
    ),
    longest=1024,
)
