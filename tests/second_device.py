"""A second device without a card: `far` computes on the CPU, but its tensors are not the CPU's. An operation that mixes the two is refused, as a
GPU refuses it, and nothing becomes an array of NumPy unless it is fetched. So a whole `Recommender` can be run there, and its numbers compared."""
import torch
from torch.utils._device import _device_constructors
from torch.utils._pytree import tree_map, tree_leaves
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
COUNTS = {}                                                            # operations on the second device, by name
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default} # may be indexed from the CPU
COPIES = {aten.copy_.default, aten._copy_from.default}                 # these go between devices


class FarTensor(torch.Tensor):
    "A tensor that says it is on `far`; `numbers` holds its numbers."
    @staticmethod
    def __new__(cls, real):
        return torch.Tensor._make_wrapper_subclass(cls, real.shape, strides=real.stride(), dtype=real.dtype, device='far:0')
    def __init__(self, real): self.numbers = real
    def __repr__(self): return f'FarTensor({self.numbers})'
    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None): return compute(func, *args, **(kwargs or {}))

def is_far(device): return torch.device(device).type == 'far'

def refuse(func, args, kwargs):
    "An error where a tensor of the CPU, other than a number, meets one of `far`."
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    if func in COPIES: return
    if func in INDEXED: tensors = [x for x in (args[0], *(args[2:3])) if isinstance(x, torch.Tensor)]
    near = [x for x in tensors if not isinstance(x, FarTensor) and (x.dim() or func in INDEXED)]
    if near and any(isinstance(x, FarTensor) for x in tensors):
        raise RuntimeError(f'{func}: expected all tensors on the same device, found far:0 and {near[0].device} {tuple(near[0].shape)}')

def compute(func, *args, **kwargs):
    "One operation: on the CPU, with what goes in and comes out kept apart."
    COUNTS[str(func)] = COUNTS.get(str(func), 0) + 1
    refuse(func, args, kwargs)
    if func is aten._fused_sdp_choice.default: return 0                # the composed form, which every device has
    device = kwargs.pop('device', None)
    inside = [x for x in tree_leaves((args, kwargs)) if isinstance(x, FarTensor)]
    stays = is_far(device) if device is not None else bool(inside)
    if func is aten.copy_.default and not isinstance(args[0], FarTensor): stays = False
    if kwargs.pop('pin_memory', None): raise RuntimeError('memory of far cannot be pinned')
    args, kwargs = tree_map(lambda x: x.numbers if isinstance(x, FarTensor) else x, (args, kwargs))
    if device is not None: kwargs['device'] = 'cpu'
    with torch.inference_mode(False): return wrapped(func, args, kwargs, stays, inside)

def wrapped(func, args, kwargs, stays, inside):
    "What an operation gives, on far if it `stays` there."
    out = func(*args, **kwargs)
    if func is aten._to_copy.default and out is args[0]: out = out.clone()
    if not stays: return out
    known = {id(x.numbers): x for x in inside}                            # in place: the same object comes back
    return tree_map(lambda x: known.get(id(x)) if id(x) in known else FarTensor(x) if isinstance(x, torch.Tensor) else x, out)

def made_here(make):
    "A function that makes tensors on the CPU and moves them: a backend in Python cannot take Python's numbers, nor let a result grow."
    return lambda *args, device=None, **kwargs: make(*args, **kwargs) if device is None else make(*args, **kwargs).to(device)

def install():
    "Make `far` known to PyTorch, for the rest of the process."
    _setup_privateuseone_for_python_backend('far')
    _device_constructors()                                         # remembers the true `torch.tensor`: transformers asks it for the device of a context
    torch.__future__.set_swap_module_params_on_conversion(True)    # a parameter that moves stays the same object, as on a card
    for name in ('tensor', 'arange', 'eye'): setattr(torch, name, made_here(getattr(torch, name)))
    library = torch.library.Library('_', 'IMPL')
    library.fallback(lambda func, *args, **kwargs: compute(func, *args, **kwargs), 'PrivateUse1')
    return library


# What the tests run here, in a process of its own: the second device stays known to PyTorch for as long as a process lives
def quick_experts(data, budget, seed):
    "All experts of the full budget and SLIM, with small networks."
    from llmrec.closed_form import SLIM
    from llmrec.fusion import default_experts
    experts = [*default_experts(data, 'full', seed), SLIM()]
    small = dict(epochs=1, pretrain=1, dim=16, hidden=16)
    for expert in experts:
        if expert.neural: expert.set_params(**{k: v for k, v in small.items() if k in expert.get_params(deep=False)})
    return experts

def places(rec):
    "Devices of all networks that score."
    nets = {str(p.device) for e in rec.experts if e.neural for p in [*e.net.parameters(), *e.net.buffers()]}
    return sorted(nets | {str(e.device) for e in rec.experts if e.neural})

def relative(a, b):
    "The largest difference of two arrays, in units of the largest entry."
    import numpy as np
    return float(np.abs(a - b).max()/max(np.abs(a).max(), 1e-12))

def whole_recommender(folder):
    "Fit, recommend, update, grow, forget, save, load and move a whole `Recommender` on far; what was found, by name."
    import warnings
    import pandas as pd
    from sklearn.base import clone
    from llmrec import Recommender, TextEncoder, make_synthetic_pair
    warnings.filterwarnings('error', message='.*left out')              # an expert that cannot be fitted fails the test
    pair = make_synthetic_pair(0, n_users=(70, 60), n_items=(40, 30), n_rows=(12, 8), shared=.5)
    users = list(pair.target.log['user'].unique()[:20])
    found = {}
    rec = Recommender('minilm', device='far', experts=quick_experts).fit(pair.target, pair.source)
    found['operations'] = sum(COUNTS.values())
    found['experts'] = [e.name for e in rec.experts]
    found['places'] = {'fit': places(rec)}
    scores = rec.score(users)
    items, best = rec.recommend(users, 5)
    assert items.shape == best.shape == (20, 5)
    rec.serve().recommend(users[0], 5)
    rec.recommend_from_text('the comet', 3)
    rec.explain(users[0], items[0, 0])
    rec.save(folder)
    loaded = Recommender.load(folder, device='far')
    found['loaded'] = relative(scores, loaded.score(users))
    found['places']['load'] = places(loaded)
    on_cpu = Recommender.load(folder, device='cpu')
    before = sum(COUNTS.values())
    found['on_cpu'] = relative(scores, on_cpu.score(users))
    found['operations_of_cpu'] = sum(COUNTS.values()) - before
    found['moved'] = relative(scores, on_cpu.to('far').score(users))
    found['places']['to'] = places(on_cpu)
    new = pd.DataFrame(dict(user=[users[0], 'someone new'], item=list(items[0, :2])))
    if 'time' in pair.target.log: new['time'] = pair.target.log['time'].max() + 1
    loaded.update(new, refresh='exact')
    row = pair.target.items.iloc[[0]].assign(item='new thing')
    loaded.add_items(row)
    loaded.forget(users[1])
    found['places']['changed'] = places(loaded)
    assert loaded.score(users).shape[1] == scores.shape[1] + 1
    assert clone(loaded).get_params()['device'] == 'far'
    on_cpu.to('cpu')
    found['places']['back'] = places(on_cpu)
    found['back'] = relative(scores, on_cpu.score(users))
    return found

def on_trial():
    "The default with a network on trial, a source to judge and items without interactions: its plan, where it is, and how far its scores are from the CPU's."
    from unittest import mock
    from llmrec import Recommender, fusion, make_synthetic_pair
    from llmrec.baselines import Popularity
    from llmrec.closed_form import EASE, KernelTransfer
    from llmrec.sequence import SASRec
    pair = make_synthetic_pair(0, n_users=(70, 60), n_items=(40, 30), n_rows=(12, 8), shared=.5)
    users = list(pair.target.log['user'].unique()[:20])
    def few(data, budget, seed): return [Popularity(), EASE(), KernelTransfer(), SASRec(epochs=1, dim=8)]
    pays = lambda *values: (1., .1)                                     # so the network joins and what hidden items teach counts
    scores, found = {}, {}
    with mock.patch.multiple(fusion, default_experts=few, paired_gain=pays, _cold_gain=pays):
        for device in ('cpu', 'far'):
            rec = Recommender('tfidf', device=device).fit(pair.target, pair.source)
            scores[device] = rec.score(users)
    found['apart'] = relative(scores['cpu'], scores['far'])
    return found | dict(plan=rec.plan, places=places(rec), experts=[e.name for e in rec.experts])

def closed_forms():
    "How far closed-form experts fitted on far are from those of the CPU, by name."
    from llmrec.closed_form import EASE, SLIM, BilinearContent, KernelTransfer, NextItemRidge, TextPopularity
    from llmrec.core import default_device
    from llmrec.expert import _sample_dataset
    data = _sample_dataset()
    scores = {}
    for device in ('cpu', 'far'):
        kernel = KernelTransfer()
        experts = [EASE(), EASE(10., max_items=20, n_neighbours=5), kernel, TextPopularity(kernel), NextItemRidge(kernel),
                   NextItemRidge(), BilinearContent(dim=16), SLIM(l2=1.)]
        with default_device(device):
            for expert in experts: expert.fit_dataset(data)
        scores[device] = [expert.score_histories(data.hist) for expert in experts]  # outside: they stay where they were fitted
        names = [f'{i} {expert.name}' for i, expert in enumerate(experts)]
    return {name: relative(a, b) for name, a, b in zip(names, scores['cpu'], scores['far'])}

def encoder():
    "Cosines of MiniLM's vectors on far with those of the CPU, and where the model is after each `to`."
    from llmrec import TextEncoder
    texts = ['red', 'a bottle of milk', 'tea']
    near = TextEncoder('minilm', device='cpu', dtype='float32', cache=False)
    vectors = near.encode(texts)
    far = TextEncoder('minilm', device='far', dtype='float32', cache=False)
    cosines = (vectors*far.encode(texts)).sum(1).tolist()
    found = [str(far.model.device), str(far.to('cpu').model.device)]
    return dict(cosines=cosines, places=found)

def writer():
    "Where the network of the writer of item IDs is trained, the operations of its fit, and the scores that it gives on the CPU afterwards."
    from llmrec.core import default_device
    from llmrec.dataset import select_users
    from llmrec.expert import _sample_dataset
    from llmrec.semantic_ids import SemanticID
    data = _sample_dataset()
    with default_device('far'): expert = SemanticID(levels=2, features=8, dim=16, layers=1, heads=2, epochs=1, beams=3, max_examples=60).fit_dataset(data)
    places = sorted({str(p.device) for p in expert.net.parameters()})
    done = sum(COUNTS.values())
    scores = expert.to('cpu').score_histories(select_users(data.hist, [0, 1]))    # beam search writes masks, which a device in Python cannot
    return dict(places=places, operations=done, shape=list(scores.shape))

def learners():
    "Scores, losses and log-likelihoods of what else trains or computes with PyTorch, on far and on the CPU: how far apart they are, by name."
    import numpy as np
    from transformers import GPT2Config, GPT2LMHeadModel
    from llmrec.core import default_device
    from llmrec.expert import _sample_dataset
    from llmrec.finetune import DomainAlignCB, NextItemClassifier, transfer_fit
    from llmrec.judge import LMScorer
    from llmrec.learner import DataLoaders, TensorLoader
    from llmrec.tuned_text import TunedText
    data = _sample_dataset()
    rng = np.random.default_rng(0)
    V, X, y = rng.normal(size=(30, 12)).astype('f4'), rng.normal(size=(64, 12)).astype('f4'), rng.integers(30, size=64)
    def tuned(): return TunedText(epochs=2).fit_dataset(data).score_histories(data.hist)
    def finetuned(strategy, cbs=()):
        torch.manual_seed(0)
        source = NextItemClassifier(V[:20], hidden=8, drop=0.)
        model = NextItemClassifier(V, hidden=8, drop=0.)
        learn = transfer_fit(model, DataLoaders(TensorLoader(X, y, bs=32)), source, strategy, 2, cbs=cbs, seed=0)
        return np.concatenate([p.detach().cpu().numpy().ravel() for p in learn.model.parameters()])
    class Letters:
        "A tokenizer of letters."
        eos_token_id = 0
        def __call__(self, text, add_special_tokens=True): return dict(input_ids=[ord(x) % 97 for x in text])
    def judged():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=97, n_positions=64, n_embd=16, n_layer=1, n_head=2))
        return LMScorer(model.to(def_device()), Letters(), words='after {}:').loglik('after tea:', ['milk', 'bread'])[0]
    def layers():
        "The trained additions to a small encoder's layers, and its vectors when it is saved and opened again."
        import tempfile
        from pathlib import Path
        from llmrec import tuned_text
        from llmrec.encode import TextEncoder
        from llmrec.pretrain import save_trained, tiny_encoder
        texts = [f'thing {j % 7} of kind {j % 3}' for j in range(data.n_items)]
        with tempfile.TemporaryDirectory() as folder:
            small = tiny_encoder(texts, dim=16, layers=1, heads=2, vocab=60, out=Path(folder)/'small', cache=False)
            model = tuned_text._tunable(small, 4, .05)
            task = tuned_text._tuning(small, data, texts, 64, 30, 0)
            tuned_text._tune(model, task, 16, 2, def_device(), lr=1e-2, precision='no', seed=0)
            own = [p.detach().cpu().numpy().ravel() for n, p in model.named_parameters() if 'lora_' in n]
            path = save_trained(small, model.body, Path(folder)/'tuned')
            return np.concatenate([*own, TextEncoder(path, cache=False).encode(texts).ravel()])
    from llmrec.core import def_device
    tasks = dict(TunedText=tuned, layers=layers, judge=judged, **{strategy: lambda s=strategy: finetuned(s) for strategy in ('supervised', 'gradual', 'lora', 'adapter')},
                 **{kind: lambda k=kind: finetuned('full', [DomainAlignCB(X[::-1].copy(), k)]) for kind in ('mmd', 'coral', 'dann')})
    found = {}
    for name, task in tasks.items():
        values = []
        for device in ('cpu', 'far'):
            torch.manual_seed(0)
            done = sum(COUNTS.values())
            with default_device(device): values.append(task())
        found[name] = [relative(*values), sum(COUNTS.values()) - done]
    return found

def by_hand():
    "What happens when one tensor is left on the CPU, by place: the error, or nothing."
    from unittest import mock
    from llmrec import algebra, sequence, two_tower
    from llmrec.closed_form import KernelTransfer
    from llmrec.core import default_device
    from llmrec.expert import _sample_dataset
    from llmrec.tuned_text import TunedText
    data = _sample_dataset()
    table, factor = sequence.SeqNet.table, algebra._factor
    faults = {
        'the table of SASRec': (sequence.SeqNet, 'table', lambda net: table(net).cpu(), sequence.SASRec(epochs=1, dim=8)),
        'candidates of the towers': (two_tower.TowerNet, 'forward', lambda net, u: net.user(u) @ net.item(net.candidates.cpu()).T,
                                     two_tower.TwoTower(epochs=1, dim=8, hidden=8)),
        'batches': (sequence.Learner, '_batch', _near_batch(sequence.Learner._batch), sequence.SASRec(epochs=1, dim=8)),
        'a factor': (algebra, '_factor', lambda A: factor(A).cpu(), KernelTransfer()),
        'a network that was trained before': (sequence.Learner, '_unwrap', lambda learn: None, TunedText(epochs=1))}
    found = {}
    for name, (owner, attribute, fault, expert) in faults.items():
        with mock.patch.object(owner, attribute, fault), default_device('far'):
            try: expert.fit_dataset(data)
            except RuntimeError as error: found[name] = str(error)
            else: found[name] = ''
    return found

def _near_batch(step):
    def batch(learn):
        learn.batch = tuple(x.cpu() for x in learn.batch)
        return step(learn)
    return batch

if __name__ == '__main__':
    import json, sys, tempfile
    library = install()
    tasks = dict(whole=lambda: whole_recommender(tempfile.mkdtemp()), closed=closed_forms, faults=by_hand, writer=writer, encoder=encoder, learners=learners, trial=on_trial)
    print(json.dumps({name: tasks[name]() for name in sys.argv[1:] or tasks}))
