"""A scikit-learn script as a task."""
import pickle
from pathlib import Path
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score
import labtrail as lt
from labtrail.running.cli import run_tasks
from labtrail.record import Record
from labtrail.running.task import Task

class Config(lt.Config):
    trees: int = 20
    """trees"""
    depth: int | None = None
    """depth; empty: any"""

def fit(config, run):
    x, y = load_breast_cancer(return_X_y=True)
    model = RandomForestClassifier(config.trees, max_depth=config.depth, random_state=config.seed)
    for fold, score in enumerate(cross_val_score(model, x, y, cv=3)):
        yield Record(fold, {"validation/accuracy": float(score)})
    yield Record(3, {"test/accuracy": float(model.fit(x, y).score(x, y))}, {"model.pkl": pickle.dumps(model)})

TASK = Task(name="forest", config=Config, function=fit, default=Path("plain.yaml"))
if __name__ == "__main__":
    run_tasks([TASK], "sk_task")
