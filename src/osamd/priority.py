"""The priority of a thread. Encoding gives way to clicks and to the event loop."""

import contextlib
import os
import threading

# Five steps are a third of the weight of a thread that has not stepped back.
STEPS_BACK = 5


def step_back() -> None:
    """Lower the calling thread's priority for good; threads that it starts inherit it.

    Linux keeps a priority for each thread, under the thread's own id (sched(7)). Elsewhere nothing happens.
    """
    with contextlib.suppress(OSError):
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + STEPS_BACK)
