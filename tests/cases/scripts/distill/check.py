import sys, torch, math
sys.path.insert(0,'my/rep'); sys.path.insert(0,'.')
from projects.distill.config import DistillConfig, ModelConfig, LossConfig
from projects.distill.model import ResNet, Output
from projects.distill.learner import Learner, gradient_comparison
from projects.distill.methods import METHODS, StageWidths
from projects.distill import losses
torch.manual_seed(0)
# 1 label smoothing confound
y=torch.randint(0,10,(64,)); z=torch.randn(64,10)*5
o=Output((torch.randn(64,16,8,8),)*3, torch.randn(64,64), z)
def ce(cfg):
    l=Learner(cfg,1,10); c,_=l.terms(o,None,y); return float(l.loss(c,None))
base=DistillConfig(method='none',alpha=0.0); ctl=DistillConfig(method='control',alpha=0.0)
print('same logits: baseline loss',ce(base),' control alpha=0 loss',ce(ctl))
# 2 pull of methods at authors' weight on random nets: logitstd
t=ResNet(ModelConfig(name='resnet14'),1,10).eval(); 
x=torch.randn(64,1,16,16)
for m in ('logit','logitstd','dkd'):
    cfg=DistillConfig(method=m,alpha=.5,model=ModelConfig(name='resnet8'))
    torch.manual_seed(1); l=Learner(cfg,1,10,t.widths)
    with torch.no_grad(): to=t(x)
    to=to._replace(logits=to.logits*5)
    c,e=l.terms(l.student(x),to,y); r,cos=gradient_comparison(l.student,c,e); print(m,'weight',float(l.weight),'T',cfg.loss.temperature,'pull',round(float(r),3))
cfg=DistillConfig(method='logitstd',alpha=.9,model=ModelConfig(name='resnet8'),loss=LossConfig(temperature=2.0,weight=10.0))
torch.manual_seed(1); l=Learner(cfg,1,10,t.widths); c,e=l.terms(l.student(x),to,y); r,cos=gradient_comparison(l.student,(.1*c),.9*e); print('logitstd as in its repository (.1 CE + 9 KD, T 2): ratio', round(float(r),2))
cfg=DistillConfig(method='logitstd',alpha=.9,model=ModelConfig(name='resnet8'))
torch.manual_seed(1); l=Learner(cfg,1,10,t.widths); c,e=l.terms(l.student(x),to,y); r,cos=gradient_comparison(l.student,(.1*c),.9*e); print('logitstd labtrail default at alpha .9: ratio', round(float(r),2))
# 3 heterogenous stages
s=StageWidths((16,32,64),(64,128,256),10)
for m in METHODS:
    torch.manual_seed(0); mod=METHODS[m].build(LossConfig(),s)
    so=Output((torch.randn(8,16,16,16),torch.randn(8,32,8,8),torch.randn(8,64,4,4)),torch.randn(8,64),torch.randn(8,10))
    for name,sizes in (('same grid',(16,8,4)),('teacher grid x2',(32,16,8)),('teacher 1 stage smaller',(8,4,2))):
        to2=Output(tuple(torch.randn(8,c,h,h) for c,h in zip((64,128,256),sizes)),torch.randn(8,256),torch.randn(8,10))
        try: v=float(mod(so,to2,torch.randint(0,10,(8,)))); r='ok'
        except Exception as e: r=type(e).__name__+': '+str(e)[:70]
        if name!='same grid': print(f'{m:10} {name:24} {r}')
# 4 RepDistiller resnet state dict to labtrail's
try:
    import rep_resnet
    for n in ('resnet20','resnet56','resnet110'):
        a=getattr(rep_resnet,n)(num_classes=100); b=ResNet(ModelConfig(name=n),3,100)
        pa=sum(p.numel() for p in a.parameters()); pb=sum(p.numel() for p in b.parameters()); print(n,'params RepDistiller',pa,'labtrail',pb)
        if n=='resnet20':
            sd=a.state_dict(); out={}
            for k,v in sd.items():
                k2=k
                for i in (1,2,3): k2=k2.replace(f'layer{i}.',f'stages.{i-1}.')
                k2=k2.replace('downsample','shortcut').replace('fc.','classify.')
                out[k2]=v
            print('renamed load:', b.load_state_dict(out,strict=False))
            a.eval(); b.eval(); x3=torch.randn(4,3,32,32); print('max diff logits', float((a(x3)-b(x3).logits).abs().max()))
except Exception as e: print('rep:',type(e).__name__,e)
# 5 RKD identical rows / NaN; dkd 2 classes ; T extremes
e=torch.ones(8,4,requires_grad=True); v=losses.relation_distance_loss(e,torch.randn(8,4))+losses.relation_angle_loss(e,torch.randn(8,4)); v.backward(); print('rkd identical', float(v), torch.isfinite(e.grad).all().item())
z=(torch.randn(8,100)*200).requires_grad_(); a,b=losses.decoupled_losses(z,torch.randn(8,100)*200,torch.randint(0,100,(8,)),1.0); (a+8*b).backward(); print('dkd extreme', float(a),float(b), torch.isfinite(z.grad).all().item())
# memory of angle
import resource
