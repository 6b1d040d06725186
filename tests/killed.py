"""A job of the command line that is killed with all its processes, again and again, until it ends by itself."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

_CODE = "from toolkit.images import chunks; chunks.CHUNK = {}; from toolkit.cli import main; main()"


def run_killed(arguments, parts, *, chunk, times=2):
    """Run `toolkit` with these arguments, kept in chunks of so many items in the folder `parts`.

    It is killed `times` times: each a moment after another chunk was kept. Returns how many chunks were kept then.
    """
    command = [sys.executable, "-c", _CODE.format(chunk), *map(str, arguments)]
    moments, kept = random.Random(7), []
    for _ in range(times):
        before = n_kept(parts)
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while n_kept(parts) <= before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.02))
        assert process.poll() is None, process.communicate()
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        kept.append(n_kept(parts))
    subprocess.run(command, check=True)
    return kept


def n_kept(parts):
    """Count the chunks that are kept."""
    return len(list(parts.glob("0*")))
