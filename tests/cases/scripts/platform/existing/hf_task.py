"""A Hugging Face Trainer inside a labtrail task: the smallest thing that claims, ends honestly and resumes."""
from pathlib import Path
import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint
from labtrail.record import Score
import labtrail as lt
from labtrail.running.cli import run_tasks
from labtrail.record import Record
from labtrail.running.task import Task

class Config(lt.Config):
    epochs: int = 3
    """epochs"""
    lr: float = 1e-3
    """rate"""

class Data(Dataset):
    def __init__(self, n, seed):
        g = torch.Generator().manual_seed(seed)
        self.x = torch.randint(0, 200, (n, 16), generator=g); self.y = (self.x < 100).sum(1).gt(8).long()
    def __len__(self): return len(self.y)
    def __getitem__(self, i): return {"input_ids": self.x[i], "labels": self.y[i]}

def train(config, run):
    accelerator, checkpoint = run.accelerator, run
    folder = checkpoint.checkpoint.folder / "trainer"            # undocumented attribute; not digested, not uploaded
    torch.manual_seed(config.seed)
    model = BertForSequenceClassification(BertConfig(vocab_size=200, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32))
    args = TrainingArguments(str(folder), num_train_epochs=config.epochs, learning_rate=config.lr, seed=config.seed,
                             eval_strategy="epoch", save_strategy="epoch", logging_strategy="epoch", report_to="none", use_cpu=True, disable_tqdm=True,
                             save_total_limit=2)
    trainer = Trainer(model, args, train_dataset=Data(256, 0), eval_dataset=Data(64, 1),
                      compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(1) == p.label_ids).mean())})
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.exists() else None)
    per_epoch = {}
    for row in trainer.state.log_history:             # all at the end: nothing is seen, pruned or judged before
        entry = per_epoch.setdefault(round(row["epoch"]) - 1, {})
        if "loss" in row: entry["train/loss"] = row["loss"]
        if "eval_loss" in row: entry |= {"validation/loss": row["eval_loss"], "validation/accuracy": row["eval_accuracy"]}
    for step, metrics in sorted(per_epoch.items()):
        yield Record(step, metrics)

TASK = Task(name="hf", config=Config, function=train, default=Path("plain.yaml"), score=Score("validation/accuracy"))
if __name__ == "__main__":
    run_tasks([TASK], "hf_task")
