"""The tasks by name, and the rewards that they are."""

from pronk.tasks.arithmetic import Arithmetic
from pronk.tasks.copying import Copying
from pronk.tasks.gsm8k import GSM8K
from pronk.tasks.stories import Stories
from pronk.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (Arithmetic(), Copying(), GSM8K(), Stories())}
