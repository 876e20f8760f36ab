"""Work that runs ahead of its consumer, in a thread of its own and not too far."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

_Item = TypeVar("_Item")

_END = object()


def read_ahead(items: Iterator[_Item], depth: int) -> Generator[_Item, None, None]:
    """The items in their order, up to `depth` of them made before they are asked for.

    What making an item raises is raised where the item would have come. An iterator that is not
    used up is to be closed (`contextlib.closing`), which ends the thread.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="florence-edge-ahead")
    try:
        waiting = deque(thread.submit(next, items, _END) for _ in range(depth))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(thread.submit(next, items, _END))
            yield cast(_Item, item)
    finally:
        thread.shutdown(cancel_futures=True)
