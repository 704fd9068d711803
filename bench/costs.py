"""Time and memory of each step over rows, items, users, texts and length of text: the table behind the curves of chapter 59.

    python bench/costs.py                     # writes bench/costs.csv; a minute or two on one core
    python bench/costs.py --only EASE         # steps whose name contains this; prints, writes nothing

Every point is a process of its own, forked before anything is measured: `seconds` is processor time, `mib` is what the high-water mark
of memory rises by (Linux). One thread. Each of the `--repeats` is a row, so that the exponents fitted to them carry an interval.
    python bench/costs.py --only "EASE, fit" --sizes 30000 --repeats 1    # 2 minutes of one core and 5 GiB
"""
import argparse, json, os, time
from pathlib import Path
import numpy as np, pandas as pd, torch
from llmrec.data import Domain
from llmrec.encode import TextEncoder
from llmrec.dataset import make_dataset
from llmrec.closed_form import EASE
from llmrec.sequence import SASRec, softmax_nll_sum
from llmrec.preprocess import clean, split_last
from llmrec.search import IVFIndex, ExactIndex
from common import write

WORDS = 'river stone garden winter story night music paper bread silver ocean forest window summer letter harbour'.split()


def log(rows, items=2000, per=20, seed=0):
    "A long-tailed log with `per` rows a user."
    g = np.random.default_rng(seed); pop = 1/np.arange(1, items + 1)**.8
    return pd.DataFrame(dict(user=np.arange(rows)//per, item=np.searchsorted((pop/pop.sum()).cumsum(), g.random(rows)).clip(max=items - 1),
                             time=1_600_000_000 + g.integers(0, 10**8, rows)))

def table(n): return pd.DataFrame(dict(item=np.arange(n), title=[f'item {i}' for i in range(n)]))
def texts(n, words, seed=0):
    g = np.random.default_rng(seed)
    return [' '.join(g.choice(WORDS, words)) for _ in range(n)]


def prepare(rows):
    l, t = log(rows), table(2000)
    return lambda: make_dataset(split_last(clean(Domain('d', l, t), 5, 5)[0]).train, t)

def ease(items):
    d = make_dataset(log(100_000, items), table(items))
    return lambda: EASE(max_items=items).fit_dataset(d)

def sasrec(rows):
    d = make_dataset(log(rows), table(2000)); e = SASRec(epochs=1, quota=np.inf)
    SASRec(epochs=1).fit_dataset(make_dataset(log(400), table(2000)))          # imports of the first step
    return lambda: e.fit_dataset(d)

def softmax(items):
    g, E = torch.randn(512, 64).requires_grad_(), torch.randn(items, 64).requires_grad_(); y = torch.arange(512)
    softmax_nll_sum(g[:32], E[:600], y[:32], 0, 600).backward()
    return lambda: softmax_nll_sum(g, E, y, 0, items).backward()

def score(users):
    e = EASE().fit_dataset(make_dataset(log(40_000, 1000), table(1000)))
    u = np.arange(users) % 2000
    return lambda: [e.score(u[i:i + 1000]) for i in range(0, users, 1000)]

def search(items):
    g = np.random.default_rng(0); index, Q = ExactIndex(g.normal(size=(items, 384)).astype('f4'), half=False), g.normal(size=(32, 384)).astype('f4')
    return lambda: index.search(Q, 10)

def cells(items):
    g = np.random.default_rng(0); index, Q = IVFIndex(g.normal(size=(items, 384)).astype('f4'), effort=8), g.normal(size=(2000, 384)).astype('f4')
    return lambda: index.search(Q, 10)

def encode(n, words=10):
    enc, t = TextEncoder('minilm', cache=False), texts(n, words); enc.encode(['warm'])
    return lambda: enc.encode(t)

def length(words): return encode(16, words)


STEPS = [ # name, what is counted, sizes, function
    ('clean, split and index', 'rows', (30_000, 100_000, 300_000, 1_000_000), prepare),
    ('SASRec, one epoch', 'rows', (5_000, 15_000, 45_000), sasrec),
    ('full softmax, 512 positions', 'items', (20_000, 60_000, 200_000), softmax),
    ('EASE, fit', 'items', (500, 1000, 2000, 4000), ease),
    ('search, 32 queries', 'items', (20_000, 60_000, 180_000), search),
    ('search in cells, 2,000 queries', 'items', (20_000, 60_000, 180_000), cells),
    ('EASE, score 1,000 items', 'users', (2_000, 6_000, 18_000), score),
    ('encode, 10 words', 'texts', (32, 96, 288), encode),
    ('encode 16 texts', 'words', (8, 32, 128, 400), length)]

def memory(what):
    "MiB of this process: 'VmRSS' now, 'VmHWM' at most since the last `forget`."
    return int(next(l for l in open('/proc/self/status') if l.startswith(what)).split()[1])/1024

def forget():
    "Reset the high-water mark."
    with open('/proc/self/clear_refs', 'w') as f: f.write('5')

def measure(make, x):
    "Processor seconds and MiB of one call in a forked process."
    r, w = os.pipe()
    if not (pid := os.fork()):
        f = make(x); forget(); m, t = memory('VmRSS'), time.process_time(); f(); t = time.process_time() - t
        os.write(w, json.dumps([t, max(memory('VmHWM') - m, 0)]).encode()); os._exit(0)
    os.close(w); out = os.read(r, 1000); os.close(r)
    if os.waitpid(pid, 0)[1] or not out: raise SystemExit(f'{make.__name__}({x}) failed')
    return json.loads(out)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--repeats', type=int, default=3); p.add_argument('--sizes', type=int, nargs='+'); p.add_argument('--only', default=''); p.add_argument('--out', default=str(Path(__file__).with_name('costs.csv')))
    a = p.parse_args(); torch.set_num_threads(1); rows = []
    for name, over, sizes, make in STEPS:
        for r, x in [(r, x) for r in range(a.repeats) for x in a.sizes or sizes] if a.only in name else ():
            s, m = measure(make, x)
            rows.append(dict(step=name, over=over, n=x, repeat=r, seconds=round(s, 4), mib=round(m, 1))); print(rows[-1], flush=True)
    if not a.only: write(pd.DataFrame(rows), a.out, '%.10g')


if __name__ == '__main__': main()
