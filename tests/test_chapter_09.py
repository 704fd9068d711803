"""The training loop: seeds, accumulation, precision, devices, a GPU that is not there, callbacks, checkpoints, penalties."""
import os
from unittest import mock
import numpy as np
import pytest
import torch
from accelerate.tracking import GeneralTracker
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from fastcore.test import test_close as close, test_eq as equal
from llmrec import learner
from llmrec.core import InputError
from llmrec.learner import (
    Callback, CancelFit, CheckpointCB, ClipCB, CompileCB, DataLoaders, EarlyStopCB, ExperimentTrackerCB, Learner,
    LivePlotCB, MetricsCB, ProgressCB, SchedCB, TensorLoader, TransferPenaltyCB, accuracy, adamw, constant, cosine, load_state,
    one_cycle, save_state)
from llmrec.transfer import named_params, transfer_penalty

torch.manual_seed(0)
X = torch.randn(64, 4)
y = (X[:, 0] > 0).long()
dls = DataLoaders(TensorLoader(X, y, bs=16), TensorLoader(X, y, bs=16))

def small():
    torch.manual_seed(1)
    return nn.Linear(4, 2)


def test_arrays_of_a_batch_have_one_length():
    equal(len(TensorLoader(np.arange(5), torch.arange(5), bs=2)), 3)
    with pytest.raises(InputError, match=r'\[2, 3\] rows'): TensorLoader([1, 2], [1, 2, 3])

def test_the_same_seed_gives_the_same_losses():
    def run(seed):
        shuffled = DataLoaders(TensorLoader(X, y, bs=10, shuffle=True))
        return Learner(small(), shuffled, lr=.1, seed=seed).fit(2).recorder.losses
    equal(run(5), run(5))
    assert run(5) != run(6)

def test_accumulated_batches_take_the_step_of_a_large_one():
    "Where the batches are no multiple, the last group is averaged over what it has."
    def steps(n, bs, accum, **kw):
        loader = TensorLoader(X[:n], y[:n], bs=bs)
        learn = Learner(small(), DataLoaders(loader), lr=.1, accum=accum, **kw).fit(1)
        return learn.step, learn.model.weight.tolist()
    equal(steps(64, 32, 1)[0], steps(64, 8, 4)[0])
    close(steps(64, 32, 1)[1], steps(64, 8, 4)[1], eps=1e-6)
    equal(steps(40, 8, 4, opt_func=torch.optim.SGD)[0], 2)

def test_products_run_in_half_precision_and_nothing_stays_switched_on():
    m = small()
    Learner(m, dls, lr=.1, precision='bf16').fit(3)
    with torch.autocast('cpu', torch.bfloat16): equal(m(X).dtype, torch.bfloat16)
    with torch.no_grad(): equal(small()(X).dtype, torch.float32)

def test_a_network_that_was_trained_before_is_prepared_again():
    "Accelerate leaves a network alone that it has prepared once: half precision, and another device, would be forgotten."
    seen = []
    class Half(nn.Linear):
        def forward(self, x): return seen.append((x @ self.weight.T).dtype) or super().forward(x)
    m = Half(*small().weight.shape[::-1])
    for _ in range(2): Learner(m, dls, lr=.1, precision='bf16').fit(1)
    equal(set(seen), {torch.bfloat16})
    with pytest.raises(Exception, match='meta'): Learner(m, dls, lr=.1, device='meta').fit(1)
    equal(m.weight.device.type, 'meta')

def test_the_device_is_that_of_def_device():
    equal(learner._accelerator('no', 'cuda:1').device, torch.device('cuda:1'))
    with mock.patch.dict(os.environ, LLMREC_DEVICE='cuda:1'):
        equal(learner._accelerator('no').device, torch.device('cuda:1'))
        equal(Learner(small(), dls, device='cpu').fit(1).acc.device, torch.device('cpu'))

def test_clipped_steps_are_short():
    "Four steps of a length of .001 at most."
    m = small()
    Learner(m, dls, lr=1., opt_func=torch.optim.SGD, cbs=[ClipCB(1e-3)]).fit(1)
    step = torch.cat([(a - b).flatten() for a, b in zip(m.parameters(), small().parameters())]).norm()
    assert 0 < step < 4.001e-3          # four clipped steps of length 1e-3

class Notes(GeneralTracker):
    "A tracker of one's own: it writes into a list."
    name, requires_logging_directory = 'notes', False
    def __init__(self):
        super().__init__()
        self.lines, self.closed = [], 0
    @property
    def tracker(self): return self.lines
    def store_init_configuration(self, values): self.lines.append(values)
    def log(self, values, step=None, **kw): self.lines.append((step, values))
    def finish(self): self.closed += 1

class BreakCB(Callback):
    "Raises at the second step."
    def __init__(self, error): self.error = error
    def after_step(self, learn):
        if learn.step == 2: raise self.error

def test_a_tracker_gets_every_number_and_is_closed():
    notes = Notes()
    tracking = ExperimentTrackerCB(notes, every=4, data='toy')
    learn = Learner(small(), dls, lr=.1, cbs=[tracking, LivePlotCB()]).fit(3)
    equal(notes.lines[0], dict(lr=.1, n_epochs=3, precision='no', data='toy'))
    equal([s for s, _ in notes.lines[1:]], [4, 4, 8, 8, 12, 12])
    equal(notes.lines[-1][1], {k: v for k, v in learn.recorder.rows[-1].items() if k != 'epoch'})
    with pytest.raises(ValueError): learn.fit(3, cbs=[BreakCB(ValueError())])
    equal(notes.closed, 2)
    with pytest.raises(InputError, match='comet_ml is not installed'):
        Learner(small(), dls, cbs=[ExperimentTrackerCB('comet_ml')]).fit(1)

def test_schedules_reach_the_rate_and_end_near_zero():
    rates = {s.__name__: Learner(small(), dls, lr=.1, cbs=[SchedCB(s)]).fit(10).recorder.lrs
             for s in (constant, cosine, one_cycle)}
    equal(max(rates['cosine']), .1)
    close(max(rates['one_cycle']), .1, eps=1e-3)
    assert rates['cosine'][-1] < 1e-3 and rates['one_cycle'][-1] < 1e-3

# A GPU that is not there: tensors have a shape and a device but no values, so whoever asks for a number fails
class Imagined:
    "An accelerator for a GPU that is not there."
    device, num_processes, process_index = torch.device('cuda:0'), 1, 0
    def prepare(self, o):
        self.net = o if isinstance(o, nn.Module) else self.net
        return o
    def unwrap_model(self, o, **kw): return o
    def backward(self, loss):
        for p in self.net.parameters(): p.grad = torch.zeros_like(p)
    clip_grad_norm_ = staticmethod(nn.utils.clip_grad_norm_)

class ThreeCB(Callback):
    order = 60
    def after_step(self, learn):
        if learn.step == 3: raise CancelFit

def imagined(*cbs):
    "Three steps on a GPU that is not there; shapes of what was page-locked."
    pinned = []
    def pin(tensor):
        pinned.append(tuple(tensor.shape))
        return tensor
    with (FakeTensorMode(), torch.no_grad(), mock.patch.object(torch.Tensor, 'pin_memory', pin),
          mock.patch.object(learner, '_accelerator', lambda *a: Imagined())):
        net = nn.Linear(4, 2, bias=False)
        net.weight = nn.Parameter(torch.zeros(2, 4, device='cuda'))
        b = TensorLoader(torch.zeros(64, 4), torch.zeros(64, dtype=torch.long), bs=16, shuffle=True)
        cbs = [SchedCB(cosine), ClipCB(), ThreeCB(), *cbs]
        learn = Learner(net, DataLoaders(b), cbs=cbs).fit(1)
    return learn, pinned

class AskCB(Callback):
    def after_loss(self, learn): float(learn.loss)

def test_nobody_waits_for_the_gpu():
    learn, pinned = imagined(ProgressCB())
    equal(pinned, [(16, 4), (16,)]*3)
    waiting = [(v.device.type, step) for _, v, _, step in learn.recorder.queue]
    equal(waiting, [('cuda', 0), ('cuda', 1), ('cuda', 2)])
    assert learn.opt.param_groups[0]['fused']
    elsewhere = torch.nn.Linear(1, 1, device='meta')
    assert not adamw(elsewhere.parameters()).param_groups[0]['fused']
    with pytest.raises(RuntimeError): imagined(AskCB())

def test_a_compiled_model_takes_the_same_steps_and_keeps_its_names():
    naive = Learner(small(), dls, lr=.1).fit(3).recorder.losses
    learn = Learner(small(), dls, lr=.1, cbs=[CompileCB(backend='eager')]).fit(3)    # only traced
    close(learn.recorder.losses, naive, eps=1e-6)
    equal(list(learn.model.state_dict()), ['weight', 'bias'])
    learn, _ = imagined(CompileCB(backend='eager'))
    equal([v.device.type for _, v, *_ in learn.recorder.queue], ['cuda']*3)

def test_what_is_watched_must_be_recorded():
    with pytest.raises(InputError, match="watches 'ndcg'"): Learner(small(), dls, cbs=[EarlyStopCB('ndcg')]).fit(1)

def test_checkpoints_of_accelerate_are_several_files_with_pickles(tmp_path):
    "Why we have our own."
    acc = Learner(small(), dls).fit(1).acc
    acc.save_state(str(tmp_path), safe_serialization=True)
    assert {'model.safetensors', 'optimizer.bin', 'random_states_0.pkl'} <= set(os.listdir(tmp_path))

def test_nested_state_comes_back_from_one_file(tmp_path):
    half = torch.ones(2, dtype=torch.bfloat16)
    path = tmp_path/'x.safetensors'
    save_state(path, dict(a=torch.arange(3), b=[1, (2., None)], c={7: half}, d='é'))
    back = load_state(path)
    equal(os.listdir(tmp_path), ['x.safetensors'])
    equal(back['a'].tolist(), [0, 1, 2])
    equal(back['b'], [1, (2., None)])
    equal(back['c'][7].dtype, torch.bfloat16)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match='not a checkpoint'): load_state(path)

class Killed(Exception): pass
class KillCB(Callback):
    order = 45
    def __init__(self, at): self.at = at
    def after_batch(self, learn):
        if learn.training and learn.epoch*len(learn.dl) + learn.i == self.at: raise Killed

def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(.3), nn.Linear(8, 2))

def job(seed, *cbs, valid=TensorLoader(X, y)):
    dls = DataLoaders(TensorLoader(X, y, bs=6, shuffle=True), valid)
    cbs = [SchedCB(one_cycle), MetricsCB(accuracy=accuracy), *cbs]
    return Learner(net(seed), dls, lr=.05, accum=2, cbs=cbs)

def resumed(at, path, n_epochs=3, **kw):
    "A run that is killed after batch `at`, and resumed from other weights."
    with pytest.raises(Killed): job(0, CheckpointCB(path, every=1), KillCB(at), **kw).fit(n_epochs)
    return job(99, CheckpointCB(path, every=1), **kw).fit(n_epochs)

def test_a_killed_run_ends_as_a_whole_one(tmp_path):
    whole = job(0).fit(3)
    for at in (1, 5, 10, 11, 12, 16, 31):
        again = resumed(at, tmp_path/f'{at}.safetensors')
        for a, b in zip(whole.model.parameters(), again.model.parameters()): equal(a.tolist(), b.tolist())
        equal(again.recorder.losses, whole.recorder.losses)
        equal(again.recorder.rows, whole.recorder.rows)

def test_without_validation_the_next_epoch_draws_from_its_own_seed(tmp_path):
    "Killed before the epoch wrote its own checkpoint: the state of the generators must not reach the next one."
    whole, last = job(0, valid=None).fit(3), len(TensorLoader(X, y, bs=6)) - 1
    again = resumed(last, tmp_path/'run.safetensors', valid=None)
    equal(again.recorder.losses, whole.recorder.losses)

def test_penalties_are_their_formulas():
    src, tgt = small(), small()
    with torch.no_grad():
        tgt.weight[0, 0] += 3
        tgt.bias[1] += 4
    ones = {k: torch.ones_like(p) for k, p in src.named_parameters()}
    close(TransferPenaltyCB(src, .5).penalty(tgt).item(), .5*5, eps=1e-6)
    close(TransferPenaltyCB(src, .5, 'l2sp').penalty(tgt).item(), .5/2*25, eps=1e-5)
    close(TransferPenaltyCB(src, .5, 'ewc', fisher=ones).penalty(tgt).item(), .5*25/2, eps=1e-5)
    with pytest.raises(InputError, match="kind is 'l3'"): TransferPenaltyCB(src, kind='l3')
    with pytest.raises(InputError, match='needs the source model itself'): TransferPenaltyCB(named_params(src), kind='distill')

def test_a_stronger_penalty_holds_nearer():
    def way(kind, lam):
        m = small()
        Learner(m, dls, lr=.01, opt_func=torch.optim.SGD, cbs=[TransferPenaltyCB(small(), lam, kind)]).fit(20)
        return transfer_penalty(small(), m).item()
    equal(way('prox', 5.), 0)
    assert way('norm', 0.) > way('squared', 1.) > way('squared', 10.) > 0

def test_a_held_callback_lets_go():
    class HoldCB(Callback):
        held = False
        def before_fit(self, learn): self.held = True
        def cleanup_fit(self, learn): self.held = False
    hold, learn = HoldCB(), Learner(small(), dls, lr=.1)
    for error in (ValueError('a fault'), KeyboardInterrupt()):
        with pytest.raises(type(error)): learn.fit(3, cbs=[BreakCB(error), hold])
        equal((learn.step, hold.held, learn.cbs), (2, False, [learn.recorder]))
