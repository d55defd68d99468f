import sys; sys.path.insert(0, '.');
import numpy as np, torch, functools
torch.set_num_threads(1)
from pathlib import Path
from accelerate import Accelerator
from torch.optim import AdamW
from projects.pamap2.build import build
from projects.pamap2.dataset import load_dataset
from projects.pamap2.folds import make_folds, classes_of
from projects.pamap2.config import Pamap2Config, SplitConfig, ModelConfig, TrainConfig
from projects.pamap2.inputs import make_resident, CHANNELS, COLUMNS
from projects.pamap2.evaluate import predict, scores
from projects.pamap2.model import FusionModel
from projects.pamap2.train import train_epoch
from projects.pamap2.schema import SENSORS
from labtrail.running.seeding import reseed
out=Path('scratch/real/prepared'); out.parent.mkdir(exist_ok=True)
if not out.exists(): build(Path('../shared/data/pamap2-subset/pamap2+physical+activity+monitoring.zip'),out,'trailing')
ds=load_dataset(out); EP=int(sys.argv[1])
cfg=Pamap2Config(split=SplitConfig(protocol='loso',test_subjects=(105,108)),model=ModelConfig(fusion='hybrid',missing='masked_attention'),train=TrainConfig(epochs=EP))
cl=classes_of(ds); acc=Accelerator(cpu=True)
for fold in make_folds(ds,cfg.split,0):
    r=make_resident(ds.values,cl.labels,fold,256,torch.device('cpu')); reseed(0)
    m=FusionModel(cfg.model,CHANNELS,len(cl.ids)); m.know_scale(r.scale.means,r.scale.deviations)
    opt=AdamW(m.parameters(),lr=cfg.train.learning_rate,weight_decay=cfg.train.weight_decay)
    for e in range(EP): reseed(0,0,e); train_epoch(m,opt,r,fold,cfg,e,acc)
    y=cl.labels[fold.test]; f=lambda l:round(scores(l,y)['macro_f1'],3)
    print('fold',fold.name,'full',f(predict(m,r,fold.test)[0]),flush=True)
    for place in ('hand','chest','ankle'):
        v=np.array(ds.values); cols=[i for i,n in enumerate(SENSORS) if n.startswith(place)]
        rows=np.flatnonzero(ds.subjects==int(fold.name)); v[np.ix_(rows,cols)]=np.nan
        r2=make_resident(v,cl.labels,fold,256,torch.device('cpu'))
        pres=[n!=place for n in ('hand','chest','ankle','heart_rate')]
        print('  ',place,'lost in the recording (NaN): as pamap2 evaluates it (mean-filled, marked present)',f(predict(m,r2,fold.test)[0]),'| same model with the mask set',f(predict(m,r2,fold.test,pres)[0]),flush=True)
# all four masked
m.eval(); raw,_=r.windows(fold.test[:2]); o=m(r.normalised(raw),torch.zeros(2,4,dtype=torch.bool)); print('all modalities masked -> logits',o.logits[0].tolist())
for fu in ('late','gated'):
    mm=FusionModel(ModelConfig(fusion=fu,missing='masked_attention'),CHANNELS,5).eval(); print(fu,'all masked ->',mm(r.normalised(raw),torch.zeros(2,4,dtype=torch.bool)).logits[0].tolist())
