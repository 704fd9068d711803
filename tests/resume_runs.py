"""Runs that are killed: `python tests/resume_runs.py FOLDER SEED` trains tiny models, kills them, resumes them, prints JSON.

One process imports PyTorch and forks a child for every run, so that fifty runs cost seconds. The kill is a SIGKILL from
outside at a random moment: in a step, in the validation pass, or in the middle of writing a checkpoint.
"""
import json, os, random, signal, sys, time
from functools import partial
from pathlib import Path
import numpy as np, torch
from torch import nn
from llmrec.dataset import Histories
from llmrec.sequence import SeqBatches, SeqNet, seq_loss
from llmrec.learner import (
    TensorLoader, CheckpointCB, ClipCB, DataLoaders, EarlyStopCB, Learner, SchedCB, cosine,
    load_state, one_cycle, save_state)


def layers(seed, path):
    """Dropout, shuffling, accumulation, one-cycle, early stopping: everything that has state.

    The validation labels are the wrong ones, so the best weights are of an early epoch, and the resumed run must return them."""
    torch.manual_seed(0)
    X = torch.randn(96, 6)
    y = (X[:, 0] > 0).long()
    torch.manual_seed(seed)
    m = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(.3), nn.Linear(16, 2))
    cbs = [SchedCB(one_cycle), ClipCB(.5), EarlyStopCB(patience=9), CheckpointCB(path, every=1)]
    dls = DataLoaders(TensorLoader(X, y, bs=8, shuffle=True), TensorLoader(X, 1 - y, bs=48))
    return Learner(m, dls, lr=.05, accum=2, cbs=cbs), 5

def sequence(seed, path):
    "The sequence model of 15_sequence, in bfloat16, on histories of every length; a checkpoint every third step."
    g = np.random.default_rng(0); n = g.integers(2, 20, 40); ptr = np.r_[0, n.cumsum()]
    h = Histories(ptr, g.integers(30, size=ptr[-1]), np.ones(ptr[-1], np.float32))
    torch.manual_seed(seed); m = SeqNet(30, dim=16, heads=2, size=10)
    loss = partial(seq_loss, ranges=[(0, 30)])
    return Learner(m, DataLoaders(SeqBatches(h, 30, size=10, tokens=60)), loss, lr=.01, precision='bf16',
                   cbs=[SchedCB(cosine), ClipCB(5.), CheckpointCB(path, every=3)]), 4


def warm_up():
    "Import what the first step of an optimiser imports. No backward pass: its threads would not survive a fork."
    m = nn.Linear(2, 2); o = torch.optim.AdamW(m.parameters())
    for p in m.parameters(): p.grad = torch.ones_like(p)
    SchedCB(cosine).func(o, 2); nn.utils.clip_grad_norm_(m.parameters(), 1.); o.step()

def child(kind, seed, folder):
    "Train in a forked process, write the weights at the end; returns its id."
    if pid := os.fork(): return pid
    try:
        learn, n = KINDS[kind](seed, folder/'run.safetensors')
        learn.fit(n)
        save_state(folder/'end.safetensors', dict(learn.model.state_dict(), losses=learn.recorder.losses, rows=learn.recorder.rows))
    except BaseException: sys.excepthook(*sys.exc_info()); os._exit(1)
    os._exit(0)

def finish(pid):
    "Wait for a child; the signal that ended it, or 0."
    status = os.waitpid(pid, 0)[1]
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status): sys.exit('a run failed')
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0

def same(a, b):
    "Are two ends equal to the last bit: weights, losses of all steps, rows of all epochs?"
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) if isinstance(v, torch.Tensor) else v == b[k] for k, v in a.items())

def other(folder, seed):
    "Begin with other weights, so that only the checkpoint can make the ends equal; with the same ones before the first of them."
    return seed if (folder/'run.safetensors').exists() else 0

def killed_once(kind, folder, delay):
    "Start a run, kill it after `delay` seconds; where it was, or None if it had already ended."
    pid = child(kind, 0, folder); time.sleep(delay); os.kill(pid, signal.SIGKILL)
    if finish(pid) != signal.SIGKILL: return None
    if not (folder/'run.safetensors').exists(): return 0
    return load_state(folder/'run.safetensors')['step']         # raises if the file is half written

def trial(kind, top, kills, rng):
    """One run that nobody disturbs, then `kills` that are killed at a random moment and resumed from other weights.

    The span of these moments follows the machine: longer after a kill before the first checkpoint, shorter after one that came too late."""
    (top/'whole').mkdir(parents=True); t = time.perf_counter()
    finish(child(kind, 0, top/'whole')); t = time.perf_counter() - t
    whole, at, equal = load_state(top/'whole'/'end.safetensors'), [], 0
    while len(at) < kills:
        folder = top/f'{len(at)}-{time.time_ns()}'; folder.mkdir()
        step = killed_once(kind, folder, rng.uniform(0, t))
        t *= 1.1 if step == 0 else .9 if step is None else 1
        if step is None: continue
        finish(child(kind, other(folder, 99), folder)); at.append(step)
        equal += same(whole, load_state(folder/'end.safetensors'))
        left = [p.name for p in folder.glob('.run.*.tmp')]       # `end` is this script's own: a kill may hit its writing, too
        assert not left, f'temporary files of the killed run are still there: {left}'
    return dict(kind=kind, steps=len(whole['losses']), killed_at=at, equal=equal, seconds=round(t, 2))

def storm(kind, top, rng, t):
    "One run that is killed again and again until it gets through; undisturbed it takes `t` seconds, and fewer if it gets through at once."
    whole, folder, kills = load_state(top/'whole'/'end.safetensors'), top/f'storm-{time.time_ns()}', 0
    folder.mkdir()
    while True:
        pid = child(kind, other(folder, kills), folder); time.sleep(rng.uniform(.1, .4)*t*1.2**kills); os.kill(pid, signal.SIGKILL)
        if finish(pid) != signal.SIGKILL: break
        kills += 1
    if kills < 2: return storm(kind, top, rng, t/2)
    return dict(kind=kind, kills=kills, equal=same(whole, load_state(folder/'end.safetensors')))


KINDS = dict(layers=layers, sequence=sequence)
if __name__ == '__main__':
    top, rng = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
    torch.set_num_threads(1); warm_up()
    out = [trial(k, top/k, n, rng) for k, n in dict(layers=12, sequence=8).items()]
    out += [storm(x['kind'], top/x['kind'], rng, x['seconds']) for x in out]
    print(json.dumps(out))
