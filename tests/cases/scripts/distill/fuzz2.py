"""Campaign/study/bundle/analysis config fuzzing in one process."""
import sys, time, traceback, yaml
from pathlib import Path
from labtrail.config import load_config
from labtrail.errors import LabtrailError
from labtrail.sweeps.cells import CampaignConfig, cells_of
from labtrail.sweeps.study import StudyConfig, trial_config
from labtrail.running.registry import task_named
D='configs/distill/digits.yaml'
def camp(groups, name='f', task='distill'): return dict(name=name, task=task, groups=groups)
def g(**k): return dict(dict(name='a', config=D), **k)
T=dict(name='t',config=D,values={'method':'none'},grid={'seed':[0,1]})
cases={
 'typo in grid key': camp([g(grid={'alpah':[.1]})]),
 'typo in grid value': camp([g(grid={'method':['logitt']})]),
 'empty grid list': camp([g(grid={'alpha':[]})]),
 'grid scalar instead of list': camp([g(grid={'alpha':0.5})]),
 'no grid': camp([g()]),
 'self read': camp([g(reads={'teacher':'a'})]),
 'forward cycle': camp([g(reads={'teacher':'b'}), dict(name='b',config=D,reads={'teacher':'a'})]),
 'dup value in grid': camp([g(grid={'seed':[0,0]})]),
 'dup value 0.5 and .50': camp([g(grid={'alpha':[0.5,'.50']})]),
 'two groups same cells': camp([g(grid={'seed':[0]}), dict(name='b',config=D,grid={'seed':[0]})]),
 'group twice': camp([g(), g()]),
 'read ambiguous': camp([T, dict(name='s',config=D,reads={'teacher':'t'},grid={'method':['logit']})]),
 'read none agree': camp([T, dict(name='s',config=D,reads={'teacher':'t'},grid={'method':['logit'],'seed':[5]})]),
 'same seed written differently': camp([T, dict(name='s',config=D,reads={'teacher':'t'},grid={'method':['logit'],'seed':['0',1]})]),
 'seed via values not grid': camp([T, dict(name='s',config=D,values={'seed':0},reads={'teacher':'t'},grid={'method':['logit']})]),
 'baseline dup by alpha grid': camp([g(grid={'method':['none','logit'],'alpha':[.1,.9]})]),
 'reads unknown key': camp([T, dict(name='s',config=D,reads={'techer':'t'},grid={'method':['logit'],'seed':[0]})]),
 'reads wrong-type key (seed)': camp([T, dict(name='s',config=D,reads={'data.folder':'t'},grid={'method':['logit'],'seed':[0]})]),
 'reads a student as teacher': camp([T, dict(name='s',config=D,reads={'teacher':'t'},values={'method':'logit'},grid={'seed':[0]}), dict(name='u',config=D,reads={'teacher':'s'},values={'method':'logit'},grid={'seed':[0]})]),
 'teacher of other data': camp([T, dict(name='s',config=D,values={'data.split_seed':3,'method':'logit'},reads={'teacher':'t'},grid={'seed':[0]})]),
 'key in values and in grid': camp([g(values={'alpha':.1},grid={'alpha':[.2]})]),
 'list as grid element': camp([g(grid={'train.milestones':[[1,2],[3]],'train.schedule':['steps']})]),
 'dict as grid element': camp([g(grid={'loss':[{'temperature':2},{'temperature':8}]})]),
 'null in grid': camp([g(grid={'loss.weight':[None,3]})]),
 'yaml on/off as value': camp([g(grid={'train.channels_last':['on','off']})]),
 'missing base': camp([g(config='configs/distill/nope.yaml')]),
 'unknown task': camp([g()],task='destill'),
 'name with slash': camp([g()],name='../../evil'),
 'group name with slash': camp([g(name='a/b')]),
 'grid value with slash and newline': camp([g(grid={'data.folder':['scratch/a/../b','x\ny']})]),
 'very long value': camp([g(grid={'data.folder':['x'*400]})]),
 'empty groups': camp([]),
 'groups as mapping': dict(name='f',task='distill',groups={'a':{}}),
 'product with zip/exclude wanted': camp([dict(name='a',config=D,grid={},exclude=[{}])]),
 'unicode name': camp([g()],name='rundé'),
 'seed float': camp([g(grid={'seed':[0.5]})]),
 'seed 1e3': camp([g(grid={'seed':['1e3']})]),
 'alpha comma number': camp([g(grid={'alpha':['0,5']})]),
}
for name, c in cases.items():
    p=Path('my/f/'+name.replace(' ','_').replace('/','-')[:60]+'.yaml'); p.write_text(yaml.safe_dump(c,sort_keys=False))
    try:
        conf=load_config(CampaignConfig,p); t=task_named(conf.task); cells=cells_of(conf,t)
        print(f'{name:32} OK {len(cells)} cells; first {cells[0].name if cells else "-"}'[:230])
    except LabtrailError as e: print(f'{name:32} error: {e}'[:300])
    except Exception as e: print(f'{name:32} TRACEBACK {type(e).__name__}: {e}'[:300])
S=dict(name='s',task='distill',config=D,space={'alpha':{'low':.1,'high':.9}})
st={
 'typo space key': dict(S,space={'alpah':{'low':.1,'high':.9}}),
 'space out of range': dict(S,space={'alpha':{'low':.1,'high':1.9}}),
 'low=high': dict(S,space={'alpha':{'low':.5,'high':.5}}),
 'low>high': dict(S,space={'alpha':{'low':.9,'high':.1}}),
 'integer with float ends': dict(S,space={'train.epochs':{'low':1.5,'high':3.7,'integer':True}}),
 'choices and ends': dict(S,space={'alpha':{'low':.1,'choices':[.1]}}),
 'empty space': dict(S,space={}),
 'choices with bad': dict(S,space={'method':{'choices':['logit','kd']}}),
 'choices with bool/int mix': dict(S,space={'seed':{'choices':[True,1,2]}}),
 'metric typo': dict(S,metric='validation/acuracy'),
 'metric on test': dict(S,metric='test/accuracy'),
 'trials 0': dict(S,trials=0),
 'values overlap space': dict(S,values={'alpha':.3}),
 'bad storage': dict(S,storage='sqlite://'),
 'sampler grid': dict(S,sampler='grid'),
 'sampler cmaes': dict(S,sampler='cmaes'),
 'pruner hyperband': dict(S,pruner='hyperband'),
 'two metrics': dict(S,metric=['validation/accuracy','validation/ece']),
 'step': dict(S,space={'alpha':{'low':.1,'high':.9,'step':.1}}),
 'log from 0': dict(S,space={'loss.weight':{'low':0,'high':9,'log':True}}),
 'seed in space': dict(S,space={'seed':{'choices':[0,1,2]}}),
}
for name,c in st.items():
    p=Path('my/f/study_'+name.replace(' ','_').replace('/','-')[:60]+'.yaml'); p.write_text(yaml.safe_dump(c,sort_keys=False))
    try:
        conf=load_config(StudyConfig,p); t=task_named(conf.task); trial_config(conf,t,{})
        d={k:v.distribution for k,v in conf.space.items()}
        print(f'study {name:30} OK {d}'[:200])
    except LabtrailError as e: print(f'study {name:30} error: {e}'[:300])
    except Exception as e: print(f'study {name:30} TRACEBACK {type(e).__name__}: {e}'[:300])
from projects.distill.config import BundleConfig
B=dict(teacher_model='resnet14',students=[{'method':'logit','alpha':.5}])
for name,c in {
 'no students':dict(B,students=[]),'dup students':dict(B,students=[{'method':'logit'},{'method':'logit','alpha':.5}]),
 'dup via same loss written out':dict(B,students=[{'method':'logit'},{'method':'logit','loss':{'temperature':4}}]),
 'student with own train':dict(B,students=[{'method':'logit','train':{'epochs':3}}]),
 'students typo':dict(B,students=[{'methd':'logit'}]),
 'alpha in loss':dict(B,students=[{'method':'logit','loss':{'alpha':4}}]),
 'partial loss resets the bundle loss': dict(B,loss={'temperature':8},students=[{'method':'logit'},{'method':'attention','loss':{'weight':10}}]),
 'two baselines':dict(B,students=[{'method':'none','alpha':.1},{'method':'none','alpha':.2}]),
}.items():
    p=Path('my/f/bundle_'+name.replace(' ','_')[:50]+'.yaml'); p.write_text(yaml.safe_dump(c,sort_keys=False))
    try:
        conf=load_config(BundleConfig,p); print(f'bundle {name:34} OK', [(s.method,s.alpha,s.loss and (s.loss.temperature,s.loss.weight)) for s in conf.students])
    except LabtrailError as e: print(f'bundle {name:34} error: {e}'[:260])
    except Exception as e: print(f'bundle {name:34} TRACEBACK {type(e).__name__}: {e}'[:260])
for n in (300,1000,2000):
    p=Path('my/f/big.yaml'); p.write_text(yaml.safe_dump(camp([g(grid={'seed':list(range(n))})])))
    a=time.process_time(); conf=load_config(CampaignConfig,p); cells_of(conf,task_named('distill')); print('cells',n,'cpu s',round(time.process_time()-a,2),flush=True)
# with reads
for n in (300,1000):
    p=Path('my/f/bigr.yaml'); p.write_text(yaml.safe_dump(camp([dict(name='t',config=D,grid={'seed':list(range(n))}),dict(name='s',config=D,values={'method':'logit'},reads={'teacher':'t'},grid={'seed':list(range(n))})])))
    a=time.process_time(); conf=load_config(CampaignConfig,p); cells_of(conf,task_named('distill')); print('read cells',n,'+',n,'cpu s',round(time.process_time()-a,2),flush=True)
