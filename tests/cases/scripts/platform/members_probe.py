"""What keeps a second attempt at a bundle's member out: the checkpoint of an ordinary run beside a member's."""
import os
os.environ["CUDA_VISIBLE_DEVICES"] = ""
from pathlib import Path
from accelerate import Accelerator
from labtrail.config import Config
from labtrail.running.members import Members
from labtrail.record import Record
from labtrail.running.task import Task
def toy(config, run):
    yield Record(0, {"test/x": 1.0})
TASK = Task("toy", Config, toy, Path("toy.yaml"))
members = Members(TASK, [Config(seed=0)], Accelerator(cpu=True), {})
one = members.at_work[0]._checkpoint
print("name of the state being written:", one._new.name)
print("guard before writing:", one._permit.__name__, one._permit.__code__.co_filename.split("/")[-1], "line", one._permit.__code__.co_firstlineno)
from labtrail.running.fence import Fence
fence = Fence(members.at_work[0].run_id, token=7); fence.activate()
try:
    one.save(Record(0, {"test/x": 1.0}))
    print("after attempt 7 has begun, the member of the earlier attempt still writes: nothing was raised")
except Exception as error:
    print(type(error).__name__, error)
members.close("KILLED", "probe")
