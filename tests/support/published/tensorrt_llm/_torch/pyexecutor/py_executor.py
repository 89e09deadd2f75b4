"""The loop of the PyTorch backend, with one step."""

import threading


class PyExecutor:
    def __init__(self, step):
        self.event_loop = step
        self.worker_thread = None

    def _event_loop_wrapper(self):
        self.event_loop()

    def start_worker(self):
        self.worker_thread = threading.Thread(target=self._event_loop_wrapper, daemon=True)
        self.worker_thread.start()
