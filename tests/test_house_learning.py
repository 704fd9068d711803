"""Training, transfer and its measures: state that survives a kill, one device, a moment that always comes, one interval."""
import inspect, math, os
from unittest import mock
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from accelerate.data_loader import BatchSamplerShard
from accelerate.state import PartialState
from accelerate.tracking import GeneralTracker
from scipy.linalg import fractional_matrix_power as matrix_power
from torch import nn
from llmrec import learner
from llmrec.core import InputError, set_seed
from llmrec.discrepancy import align_domains, choose_strategy, coral, logme, mmd, proxy_a_distance
from llmrec.finetune import (
    DomainAlignCB, NextItemClassifier, TransferClassifier, evaluate_classifier, learning_curve, mean_interval,
    mlp_encoder, ndcg_next, transfer_effect, transfer_fit, zero_shot_gain)
from llmrec.learner import (
    Callback, CheckpointCB, DataLoaders, EarlyStopCB, ExperimentTrackerCB, Learner, ProgressCB, SchedCB,
    TensorLoader, cosine, load_state, save_state)
from llmrec.metrics import bootstrap, ndcg_of_ranks, rank_of_target
from llmrec.transfer import fisher_diag, to_numpy


class Killed(Exception): pass

class KillCB(Callback):
    "Raise after so many training batches."
    order = 90
    def __init__(self, after): self.after, self.seen = after, 0
    def after_batch(self, learn):
        self.seen += learn.training
        if self.seen == self.after: raise Killed

def killed_and_resumed(make, path, after, n_epochs):
    "A run that is killed, and one that goes on from other weights."
    with pytest.raises(Killed): make(0, CheckpointCB(path, every=1), KillCB(after)).fit(n_epochs)
    return make(99, CheckpointCB(path, every=1)).fit(n_epochs)

def equal(a, b):
    "Two runs, to the last bit."
    assert a.recorder.losses == b.recorder.losses and a.recorder.rows == b.recorder.rows
    for p, q in zip(a.model.parameters(), b.model.parameters()): assert torch.equal(p, q)


# E9: what a checkpoint forgets
def noisy(seed, *cbs):
    "Labels are noise: the best epoch is early, and the run stops some epochs later."
    g = torch.Generator().manual_seed(0)
    X, y = torch.randn(64, 40, generator=g), torch.randint(0, 2, (64,), generator=g)
    dls = DataLoaders(TensorLoader(X[:32], y[:32], bs=8, shuffle=True), TensorLoader(X[32:], y[32:]))
    torch.manual_seed(seed)
    return Learner(nn.Linear(40, 2), dls, lr=.02, cbs=[SchedCB(cosine), EarlyStopCB(patience=5), *cbs])

@pytest.mark.parametrize('after', [3, 8, 14, 17, 20])
def test_a_resumed_run_stops_at_the_same_epoch_with_the_same_weights(tmp_path, after):
    whole = noisy(0).fit(30)
    assert 5 < len(whole.recorder.rows) < 30
    again = killed_and_resumed(noisy, tmp_path/'run.safetensors', after, 30)
    equal(whole, again)
    X, y = (torch.cat([b[i] for b in again.dls.valid]) for i in (0, 1))
    with torch.no_grad(): returned = F.cross_entropy(again.model(X), y).item()
    assert math.isclose(returned, whole.recorder.history.valid_loss.min(), rel_tol=1e-6)

def aligned(seed, *cbs):
    "Adversarial alignment; its discriminator starts from the same weights in every run but the resumed one."
    g = torch.Generator().manual_seed(0)
    X, far = torch.randn(48, 4, generator=g), torch.randn(40, 4, generator=g) + 1
    torch.manual_seed(seed)
    model = TransferClassifier(mlp_encoder(4, 8), 8, 2)
    dls = DataLoaders(TensorLoader(X, (X[:, 0] > 0).long(), bs=8, shuffle=True))
    return Learner(model, dls, lr=.05, cbs=[SchedCB(cosine), DomainAlignCB(far, 'dann', 1.), *cbs])

@pytest.mark.parametrize('after', [2, 6, 9])
def test_a_resumed_alignment_goes_on_with_its_discriminator(tmp_path, after):
    equal(aligned(0).fit(3), killed_and_resumed(aligned, tmp_path/'run.safetensors', after, 3))

class AverageCB(Callback):
    "A callback of the reader's own: the running mean of the first weight, whose length matters to the loss."
    def before_fit(self, learn): self.mean = torch.zeros(())
    def after_step(self, learn): self.mean = .9*self.mean + .1*next(learn.model.parameters()).detach().sum()
    def after_loss(self, learn): learn.loss = learn.loss*(1 + self.mean.abs())
    def state_dict(self): return dict(mean=self.mean)
    def load_state_dict(self, state): self.mean = state['mean']

def test_any_callback_with_a_state_is_part_of_the_checkpoint(tmp_path):
    make = lambda seed, *cbs: noisy(seed, AverageCB(), *cbs)
    equal(make(0).fit(4), killed_and_resumed(make, tmp_path/'run.safetensors', 6, 4))

def test_a_checkpoint_of_other_callbacks_is_refused(tmp_path):
    path = tmp_path/'run.safetensors'
    noisy(0, CheckpointCB(path)).fit(1)
    with pytest.raises(InputError, match='other callbacks'): noisy(0, AverageCB(), CheckpointCB(path)).fit(2)

def test_what_was_loaded_does_not_lie_in_the_file(tmp_path):
    path = tmp_path/'x.safetensors'
    save_state(path, dict(a=torch.arange(1000)))
    back = load_state(path)
    path.write_bytes(b'')
    assert back['a'].tolist() == list(range(1000))


# E20: one device
def test_accelerate_gets_the_device_of_def_device(monkeypatch):
    before = PartialState().device
    monkeypatch.setenv('LLMREC_DEVICE', 'cuda:1')
    assert learner._accelerator('no').device == torch.device('cuda:1')
    assert learner._accelerator('no', 'cuda:0').device == torch.device('cuda:0')
    assert learner._accelerator('no', 'cpu').device == torch.device('cpu')
    assert PartialState().device == before                      # nobody else's device was moved
    assert noisy(0).device is None
    learn = noisy(0)
    learn.device = 'cpu'
    assert learn.fit(1).acc.device == torch.device('cpu')

class Far(torch.Tensor):
    "A tensor that NumPy cannot read, like one on a GPU, until it is fetched."
    def numpy(self, *a, **kw): raise TypeError("can't convert a far tensor to numpy")
    def __array__(self, *a, **kw): raise TypeError("can't convert a far tensor to numpy")
    def cpu(self): return self.as_subclass(torch.Tensor)

PLACES = ['far'] + ['cuda']*torch.cuda.is_available()
def there(x, place): return torch.as_tensor(x).to(place) if place == 'cuda' else torch.as_tensor(x).as_subclass(Far)

@pytest.mark.parametrize('place', PLACES)
def test_measures_take_tensors_from_any_device(place):
    g = np.random.default_rng(0)
    X, Y = g.normal(size=(40, 4)).astype('f4'), g.normal(size=(30, 4)).astype('f4') + 1
    y, scores = g.integers(3, size=40), g.normal(size=(40, 3))
    FX, FY = there(X, place), there(Y, place)
    assert proxy_a_distance(FX, FY) == proxy_a_distance(X, Y)
    assert proxy_a_distance(FX, Y) == proxy_a_distance(X, Y)    # the other one is brought to it
    for f in (mmd, coral): assert np.isclose(to_numpy(f(FX, FY)), to_numpy(f(X, Y)), atol=1e-5)
    assert np.isclose(logme(FX, there(y, place)), logme(X, y))
    assert np.allclose(align_domains(FX, FY, 'coral')[0], align_domains(X, Y, 'coral')[0])
    assert np.array_equal(ndcg_next(there(scores, place), there(y, place)), ndcg_next(scores, y))

@pytest.mark.parametrize('place', PLACES)
def test_models_take_batches_from_any_device(place):
    torch.manual_seed(0)
    V = F.normalize(torch.randn(5, 4), dim=1).numpy()
    own, source = NextItemClassifier(V), NextItemClassifier(V)
    with torch.no_grad(): source.head.weight.normal_()
    u, y = torch.randn(20, 4), torch.randint(0, 5, (20,))
    gain = zero_shot_gain(own, source, [(u, y)])
    assert zero_shot_gain(own, source, [(there(u, place), there(y, place))]) == gain
    assert evaluate_classifier(own, [(u, y)]) == evaluate_classifier(own, [(there(u, place), there(y, place))])

def test_fisher_information_is_made_where_the_model_is():
    model, batch = nn.Linear(4, 2).to('meta'), (torch.randn(5, 4), torch.randint(0, 2, (5,)))
    assert {f.device.type for f in fisher_diag(model, [batch]).values()} == {'meta'}


# E23: a moment that always comes
class Held(Callback):
    def __init__(self, log, name, order=0, error=None): self.log, self.name, self.order, self.error = log, name, order, error
    def cleanup_fit(self, learn):
        self.log.append(self.name)
        if self.error: raise self.error

class RaiseCB(Callback):
    def __init__(self, moment, error): setattr(self, moment, lambda learn: (_ for _ in ()).throw(error))

MOMENTS = ['before_fit', 'before_epoch', 'before_batch', 'after_loss', 'before_step', 'after_step', 'after_batch',
           'after_epoch', 'after_fit']

@pytest.mark.parametrize('moment', MOMENTS)
@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_cleanup_fit_comes_after_an_error_at_any_moment(moment, error):
    log, learn = [], noisy(0)
    before = list(learn.cbs)
    with pytest.raises(error): learn.fit(2, [Held(log, 'b', 1), Held(log, 'a'), RaiseCB(moment, error())])
    assert log == ['a', 'b'] and learn.cbs == before
    assert 'forward' not in vars(learn.model)                   # unwrapped

def test_every_cleanup_is_called_whatever_the_others_raise():
    log = []
    with pytest.raises(OSError): noisy(0).fit(1, [Held(log, 'a', 0, OSError()), Held(log, 'b', 1)])
    assert log == ['a', 'b']

def test_an_error_before_there_is_an_accelerator_is_the_error_one_sees():
    with mock.patch.object(learner, '_accelerator', side_effect=OSError('no driver')), pytest.raises(OSError, match='no driver'):
        noisy(0).fit(1)

@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_lr_find_puts_everything_back(error):
    learn = noisy(0)
    kept, weights = (learn.dls, learn.cbs, learn.recorder), learn.model.weight.detach().clone()
    def fail(preds, y): raise error()
    learn.loss_func = fail
    with pytest.raises(error): learn.lr_find()
    assert all(a is b for a, b in zip(kept, (learn.dls, learn.cbs, learn.recorder)))
    assert torch.equal(learn.model.weight, weights) and learn.dls.valid is not None

def test_lr_find_lives_through_a_loss_that_explodes():
    learn = noisy(0)
    learn.opt_func = torch.optim.SGD
    rate, table = learn.lr_find(lo=1e-3, hi=1e38, steps=20)
    assert 0 < rate < 1e3 and len(table) < 20

class Tracker(GeneralTracker):
    name, requires_logging_directory, closed = 'tracker', False, 0
    @property
    def tracker(self): return None
    def store_init_configuration(self, values): pass
    def log(self, values, step=None, **kw): pass
    def finish(self): self.closed += 1

def test_bars_and_trackers_are_closed_after_an_error(monkeypatch):
    bars = []
    class Bar:
        def __init__(self, *a):
            self.open = True
            bars.append(self)
        def update(self): pass
        def set_postfix(self, **kw): pass
        def close(self): self.open = False
    monkeypatch.setattr(learner, 'progress', Bar)
    tracker = Tracker()
    with pytest.raises(Killed): noisy(0).fit(3, [ProgressCB(), ExperimentTrackerCB(tracker), KillCB(6)])
    assert len(bars) == 3 and not any(b.open for b in bars) and tracker.closed == 1

def test_a_second_run_starts_at_the_rate_that_was_asked_for():
    model = nn.Linear(40, 2)
    groups = [dict(params=list(model.parameters()), lr=.02)]
    learn = Learner(model, noisy(0).dls, params=groups, cbs=[SchedCB(cosine)])
    first = learn.fit(2).recorder.lrs
    assert learn.fit(2).recorder.lrs == first and groups[0].keys() == {'params', 'lr'}


# No validation batch is lost between processes
class OneOfTwo:
    device, num_processes, is_main_process = torch.device('cpu'), 2, True
    def __init__(self, index): self.process_index = index
    def prepare(self, o): return o
    def unwrap_model(self, o, **kw): return o
    def backward(self, loss): loss.backward()
    def reduce(self, sums):
        self.sums = sums
        return sums

def process(index, valid, monkeypatch):
    "Sums of a process, the batches that count, and how often it called the model."
    g = torch.Generator().manual_seed(0)
    X, y = torch.randn(32, 4, generator=g), torch.randint(0, 2, (32,), generator=g)
    torch.manual_seed(0)
    model, calls, counted, acc = nn.Linear(4, 2), [], [], OneOfTwo(index)
    model.register_forward_hook(lambda *a: calls.append(1))
    class SeeCB(Callback):
        def after_loss(self, learn):
            if not learn.training and learn.counts: counted.append(learn.i)
    monkeypatch.setattr(learner, '_accelerator', lambda *a: acc)
    Learner(model, DataLoaders(TensorLoader(X, y, bs=8), valid), lr=0., cbs=[SeeCB()]).fit(1)
    return acc.sums, counted, len(calls)

@pytest.mark.parametrize('n', [3, 8, 16, 17, 40])
def test_two_processes_count_every_validation_row_once(n, monkeypatch):
    g = torch.Generator().manual_seed(1)
    X, y = torch.randn(n, 4, generator=g), torch.randint(0, 2, (n,), generator=g)
    valid = TensorLoader(X, y, bs=8)
    (a, batches_a, calls_a), (b, batches_b, calls_b) = (process(i, valid, monkeypatch) for i in (0, 1))
    assert a.keys() == b.keys() == {'train_loss', 'valid_loss'}     # both have something to add
    total, count = (a['valid_loss'] + b['valid_loss']).tolist()
    torch.manual_seed(0)
    assert count == n and math.isclose(total/n, F.cross_entropy(nn.Linear(4, 2)(X), y).item(), rel_tol=1e-5)
    assert calls_a == calls_b
    shard = lambda i: [b[0] for b in BatchSamplerShard([[j] for j in range(len(valid))], 2, i, even_batches=False)]
    if len(valid) > 1: assert (batches_a, batches_b) == (shard(0), shard(1))    # dealt out as Accelerate does


# Once each
def test_one_interval_for_one_difference():
    g = np.random.default_rng(0)
    d = g.exponential(size=200) - .9
    lo, hi = bootstrap(d, 2000)
    effect = transfer_effect(pd.Series(d), pd.Series(0*d))
    assert (effect.lo, effect.hi) == (lo[0], hi[0]) and tuple(mean_interval(d[None])) == (lo[0], hi[0])

def test_one_ndcg():
    g = np.random.default_rng(0)
    scores, y = g.integers(4, size=(50, 30)).astype(float), g.integers(30, size=50)
    assert np.array_equal(ndcg_next(scores, y), ndcg_of_ranks(rank_of_target(scores, y)))

@pytest.mark.parametrize('n', [8, 200])
def test_alignment_is_the_literal_formula(n):
    g = np.random.default_rng(0)
    S, T = g.normal(size=(n, 12)) @ g.normal(size=(12, 12)) + 1, g.normal(size=(n + 3, 12)) @ g.normal(size=(12, 12))
    def power(X, p):
        C = np.cov(X.T)
        return matrix_power(.9*C + .1*np.trace(C)/len(C)*np.eye(len(C)), p)
    white = (S - S.mean(0)) @ power(S, -.5)
    assert np.allclose(align_domains(S, T, 'whiten')[0], white, atol=1e-3)
    assert np.allclose(align_domains(S, T, 'coral')[0], white @ power(T, .5) + T.mean(0), atol=1e-3)

def test_no_distance_travels_to_be_printed():
    assert list(inspect.signature(choose_strategy).parameters) == ['n_rows', 'start', 'few', 'many', 'least']
    assert 'distance' not in inspect.signature(transfer_fit).parameters

def test_a_learning_curve_has_every_arm_at_every_size():
    set_seed(0)
    V = F.normalize(torch.randn(6, 4), dim=1).numpy()
    X, y = torch.randn(80, 4).numpy(), np.random.default_rng(0).integers(6, size=80)
    source = NextItemClassifier(V)
    arms = {'twin': (None, 'scratch'), 'source': (source, 'full')}
    make = lambda at: NextItemClassifier(V, np.bincount(y[at], minlength=6), hidden=8)
    @torch.no_grad()
    def measure(m): return ndcg_next(m(torch.from_numpy(X)), y)
    curve = learning_curve(make, X, y, arms, measure, sizes=(16, None), seeds=(0, 1), bs=16)
    assert curve[['size', 'arm']].values.tolist() == [[16, 'twin'], [16, 'source'], [80, 'twin'], [80, 'source']]
    assert (curve.difference[curve.arm == 'twin'] == 0).all()
