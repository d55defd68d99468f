"""CPU seconds of one whole command: a fresh interpreter against a fork of a preloaded one."""
import os, resource, subprocess, sys, time, shutil
from pathlib import Path
sys.path[:0]=["src","."]
os.environ.update(OMP_NUM_THREADS="1",CUDA_VISIBLE_DEVICES="",PYTHONPATH="src:.")
def cpu():
    u=resource.getrusage(resource.RUSAGE_CHILDREN); return u.ru_utime+u.ru_stime
def fresh(folder):
    Path(folder).mkdir(exist_ok=True); Path(folder,"toy.yaml").write_text("seed: 0\n")
    a,t=cpu(),time.perf_counter()
    d=subprocess.run([sys.executable,"-m","tests.toy"],cwd=folder,capture_output=True,text=True)
    print("fresh",d.returncode,round(cpu()-a,2),"cpu s",round(time.perf_counter()-t,1),"wall", d.stderr.splitlines()[-1:])
def forked(folder):
    Path(folder).mkdir(exist_ok=True); Path(folder,"toy.yaml").write_text("seed: 0\n")
    a,t=cpu(),time.perf_counter()
    pid=os.fork()
    if pid==0:
        os.chdir(folder); fd=os.open("err.log",os.O_CREAT|os.O_WRONLY); os.dup2(fd,2); os.dup2(fd,1)
        sys.argv=["tests.toy"]
        import runpy
        code=0
        try: runpy.run_module("tests.toy",run_name="__main__")
        except SystemExit as e: code=e.code or 0
        os._exit(code)
    _,st=os.waitpid(pid,0)
    print("forked",os.waitstatus_to_exitcode(st),round(cpu()-a,2),"cpu s",round(time.perf_counter()-t,1),"wall",Path(folder,"err.log").read_text().splitlines()[-1:])
base="scratch/"
fresh(base+"f1")
t=time.perf_counter(); import torch, mlflow, accelerate, labtrail.running.execute, labtrail.running.cli, labtrail.running.run_status
import mlflow.store.tracking.sqlalchemy_store
print("preload wall",round(time.perf_counter()-t,1))
forked(base+"z1"); forked(base+"z2")
fresh(base+"f2")
