"""Which of Label Studio's regions are negative, for after a reload of its page, which then no longer says so."""

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import Final

LONGEST_ID: Final = 64
MOST_REMEMBERED: Final = 4096

# Name of the caller, id of the task, id of the region.
Key = tuple[str, str, str]


class NegativeRegions:
    """Regions that were negative when they were sent. May be used by several threads."""

    def __init__(self) -> None:
        self._keys: OrderedDict[Key, None] = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, owner: str, task: str, regions: Iterable[str]) -> None:
        """Keep the ids of negative regions; of many, the newest."""
        with self._lock:
            for region in regions:
                if 0 < len(region) <= LONGEST_ID and len(task) <= LONGEST_ID:
                    self._keys[owner, task, region] = None
                    self._keys.move_to_end((owner, task, region))
            while len(self._keys) > MOST_REMEMBERED:
                self._keys.popitem(last=False)

    def among(self, owner: str, task: str, regions: Collection[str]) -> frozenset[str]:
        """Those of the ids that are known to be negative."""
        with self._lock:
            return frozenset(region for region in regions if (owner, task, region) in self._keys)
