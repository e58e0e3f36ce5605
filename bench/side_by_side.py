"""Processes that a bench measures: stages such as compiling run side by side, and what is timed runs one by one."""

import json
import subprocess
import sys
from queue import Empty, Queue
from threading import Thread


class Side:
    """A process that ends each of its stages by `pause`; `go` lets it begin the next, `hear` waits for its end."""

    def __init__(self, name, *words):
        """words: of the command line, after python."""
        self.name, self.told, self.rest = name, Queue(), []
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, *words], stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True
        )
        Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self.process.stdout:
            self.told.put(json.loads(line)) if line.startswith("{") else self.rest.append(line)
        self.told.put(None)

    def go(self):
        if self.process.poll() is None:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()

    def hear(self, seconds=300):
        """What the process tells of the stage that it ends; None where it failed or took too long: it is stopped then,
        and its last words are printed."""
        try:
            facts = self.told.get(timeout=seconds)
        except Empty:
            facts = None
        if facts is None:
            self.stop()
            self.told.put(None)
            if self.rest:
                print(f"{self.name} failed: {''.join(self.rest)[-900:]}", flush=True)
                self.rest.clear()
        return facts

    def stop(self):
        self.process.kill()
        self.process.wait()


def pause(**facts):
    """In a side's own process: tell what was found, and wait until the next stage may begin."""
    print(json.dumps(facts), flush=True)
    sys.stdin.readline()
