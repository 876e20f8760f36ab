import threading

from florence_edge_jetson.robots.ros.worker import Worker


def test_no_more_frames_are_taken_than_the_rate_says() -> None:
    now, taken, done = [0.0], [], threading.Semaphore(0)

    def take(frame: int, cancel: threading.Event) -> None:
        taken.append(frame)
        done.release()

    worker = Worker(take, lambda error: None, clock=lambda: now[0])
    worker.rate = 2.0
    worker.start()
    for tenth in range(11):
        now[0] = tenth / 10
        if worker.offer(tenth):
            assert done.acquire(timeout=10)
    worker.stop()
    assert taken == [0, 5, 10]
