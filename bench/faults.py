"""Kill, damage, fill the disk: the next start goes on or says what to delete, and no result is ever wrong.

    python bench/faults.py --kills 25 --flips 60      # of each kind, in about ten minutes on one core

Processes are stopped with SIGKILL at random moments while they write the vector cache, a checkpoint, a model, a model after
each update, and the results of `llmrec run`; bits are flipped in everything they left; files may not grow beyond a limit,
folders not be written. After each blow what is on disk must be what an undisturbed process leaves, or be refused by an
error of ours. tests/test_faults.py runs the same scenarios with fewer blows."""
import argparse, collections, contextlib, io, json, multiprocessing as mp, os, random, resource, shutil, signal, tempfile, time, warnings
from functools import lru_cache
from pathlib import Path
for k, v in dict(OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', TOKENIZERS_PARALLELISM='false', MPLBACKEND='Agg').items(): os.environ.setdefault(k, v)
import numpy as np, pandas as pd, torch
from torch import nn
from llmrec.core import InputError
from llmrec.data import make_synthetic_pair
from llmrec.embedding_cache import EmbeddingCache, hash_texts
from llmrec.baselines import Popularity
from llmrec.closed_form import EASE, NextItemRidge
from llmrec.recommender import Recommender
from llmrec.learner import TensorLoader, CheckpointCB, DataLoaders, Learner, SchedCB, load_state
from llmrec.cli import main as llmrec

DIM = 16
COUNT = collections.Counter()
few = lambda d, budget, seed: [Popularity(), EASE(100.), NextItemRidge(None, 4.)]

@lru_cache
def world(): return make_synthetic_pair(0, n_users=(60, 50), n_items=(30, 30), n_rows=(8, 6))

def child(f, *a):
    "Start `f` in a process of its own that says nothing; it ends with 0, or with what `f` returns."
    def run():
        with open(os.devnull, 'w') as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null): code = f(*a)
        os._exit(code if isinstance(code, int) else 0)
    p = mp.get_context('fork').Process(target=run); p.start()
    return p

def blow(f, *a, after):
    "Run `f`, kill it after some seconds; was it killed before its end?"
    p = child(f, *a)
    p.join(after)
    if p.exitcode is None: os.kill(p.pid, signal.SIGKILL)
    p.join()
    assert p.exitcode in (0, -signal.SIGKILL), f'{f.__name__} failed by itself: {p.exitcode}'
    COUNT[f'kills: {f.__name__}'] += p.exitcode != 0
    return p.exitcode != 0

def blows(f, *a, kills, rng, longest):
    "Kill `f` so many times, after random times."
    n = 0
    while n < kills: n += blow(f, *a, after=longest*rng.random())

def seconds(f, *a):
    "How long one call takes, here and now: kills must fall into the work on a slow machine too."
    t = time.time(); f(*a)
    return time.time() - t

# The vector cache
def vectors(texts): return np.array([np.random.default_rng(int(t)).normal(size=DIM) for t in texts], 'float32').reshape(-1, DIM)

def write_cache(folder, n=700_000):
    "Write segments of seven rows."
    for i in range(0, n, 7):
        part = [str(j) for j in range(i, i + 7)]
        EmbeddingCache(folder, DIM).write(hash_texts(part), vectors(part))

def right_rows(folder, texts):
    "How many rows a fresh store has; each must be right."
    X = np.full((len(texts), DIM), np.nan, 'float32')
    lost = EmbeddingCache(folder, DIM).read(hash_texts(texts), X)
    ok = np.setdiff1d(np.arange(len(texts)), lost)
    assert np.array_equal(X[ok], vectors([texts[i] for i in ok])), 'a wrong vector'
    return len(ok)

def cache(folder, kills, rng):
    blows(write_cache, folder, kills=kills, rng=rng, longest=.3)
    right_rows(folder, [str(i) for i in range(5000)])
    write_cache(folder, 70)
    assert right_rows(folder, [str(i) for i in range(70)]) == 70

# A checkpoint
def train(path, every=3):
    "Train a small network with a checkpoint every few steps; go on from the file if it is there."
    torch.manual_seed(0)
    X, y = torch.randn(400, 8), torch.randint(3, (400,))
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(.2), nn.Linear(32, 3))
    cbs = [SchedCB()] + ([CheckpointCB(path, every)] if path else [])
    Learner(model, DataLoaders(TensorLoader(X, y, bs=8, shuffle=True)), cbs=cbs, lr=1e-2).fit(4)
    return torch.cat([p.detach().ravel() for p in model.parameters()])

def train_child(path): train(path)

def checkpoint(folder, kills, rng):
    want, n = train(None), 0
    while n < kills:
        path = folder/f'c{n}.safetensors'
        for _ in range(min(5, kills - n)): n += blow(train_child, path, after=1.2*rng.random())
        assert torch.equal(train(path), want), 'the resumed run differs from the undisturbed one'

# Saving a model, also after updates
def fitted(seed): return Recommender('tfidf', seed=seed, experts=few).fit(world().target, world().source)
def answers(rec): return rec.score(['u00350', 'nobody']), rec.items.tolist(), len(rec.data.hist.item)
def alike(a, b):
    "The same answers, but for the last digits of scores: products of a loaded model need not have the same bits."
    return a[1:] == b[1:] and np.allclose(a[0], b[0], atol=1e-5, rtol=1e-5)

def save_both(a, b, path):
    while True: a.save(path); b.save(path)

def save(folder, kills, rng):
    a, b = fitted(0), Recommender(None, seed=1, experts=few).fit(world().target)
    want, path = [answers(a), answers(b)], folder/'model'
    longest = 20*seconds(a.save, path)
    for _ in range(kills):
        blows(save_both, a, b, path, kills=1, rng=rng, longest=longest)
        got = answers(Recommender.load(path))
        assert any(alike(got, x) for x in want), 'neither of the two models that were saved'
    a.save(path)
    assert len(list(path.glob('model-*.safetensors'))) == 1

def row(i): return pd.DataFrame(dict(user=[f'new {i % 5}'], item=[world().target.items['item'].iloc[i % 30]], time=[2_000_000_000 + i]))

def update_and_save(path, times=10**9):
    "Load, take one more row, save, again and again; the row is the one that the model has not."
    for _ in range(times):
        rec = Recommender.load(path)
        rec.update(row(len(rec.data.hist.item)))
        rec.save(path)

def update(folder, kills, rng):
    rec, path = fitted(0), folder/'updated'
    rec.save(path)
    start = n = len(rec.data.hist.item)
    longest = 6*seconds(update_and_save, path, 1)
    for _ in range(kills):
        blows(update_and_save, path, kills=1, rng=rng, longest=longest)
        got = Recommender.load(path)
        while n < len(got.data.hist.item): rec.update(row(n)); n += 1
        assert n == len(got.data.hist.item) and alike(answers(got), answers(rec)), 'not a state between two updates'
    COUNT['updates that survived'] += n - start

# The command
def write_files(folder):
    "The small world as CSV files; the command that reads them."
    for d in world():
        d.log.to_csv(folder/f'{d.name}.csv', index=False); d.items.to_csv(folder/f'{d.name}-items.csv', index=False)
    names = dict(source='books', target='films')
    return ['run', *(x for k, n in names.items() for x in (f'--{k}-log', f'{folder/n}.csv', f'--{k}-items', f'{folder/n}-items.csv')), '--encoder', 'tfidf']

def command(*argv): return llmrec(list(argv))

def close(a, b):
    "Equal, but for the last digits of numbers."
    if isinstance(a, dict) and isinstance(b, dict): return a.keys() == b.keys() and all(close(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list): return len(a) == len(b) and all(map(close, a, b))
    if isinstance(a, float) and isinstance(b, float): return bool(np.isclose(a, b, atol=2e-4, equal_nan=True))
    return a == b

class Results:
    "What a run leaves, but for times."
    def __init__(self, out):
        m = json.loads((out/'metrics.json').read_text())
        for s in m['systems'].values(): s.pop('cost', None)
        self.metrics = {k: v for k, v in m.items() if k not in ('seconds', 'peak_gib')}
        self.lists = pd.read_csv(out/'recommendations.csv').to_dict('list')
    def __eq__(self, other): return close(self.metrics, other.metrics) and close(self.lists, other.lists)

def results(out): return Results(out)

def run(folder, kills, rng):
    argv, n, t = write_files(folder), 0, time.time()
    with contextlib.redirect_stdout(io.StringIO()): assert llmrec([*argv, '--out', str(folder/'undisturbed')]) == 0
    want, t = results(folder/'undisturbed'), time.time() - t
    while n < kills:
        out = folder/f'out{n}'
        for _ in range(min(4, kills - n)): n += blow(command, *argv, '--out', str(out), after=t*.7*rng.random())
        p = child(command, *argv, '--out', str(out)); p.join()
        assert p.exitcode == 0 and results(out) == want, 'the resumed run differs from the undisturbed one'
        assert not list(out.rglob('.*.tmp')), 'something half-written is left'
        if n < kills: shutil.rmtree(out)
    return argv

KILLS = dict(cache=cache, checkpoint=checkpoint, save=save, update=update, run=run)

# Flipped bits
def flip(file, rng):
    "Flip one bit of a file; return what undoes it."
    b = file.read_bytes(); i = rng.randrange(len(b)); c = bytearray(b); c[i] ^= 1 << rng.randrange(8)
    file.write_bytes(c)
    return lambda: file.write_bytes(b)

def flips(folder, n, rng):
    "Flip bits in cache, checkpoint, model and the results of a run: found, and named or made again."
    path, store = folder/'f.safetensors', folder/'store'
    train(path); texts = [str(i) for i in range(200)]
    EmbeddingCache(store, DIM).write(hash_texts(texts), vectors(texts))
    rec = fitted(0); rec.save(folder/'f'); want = answers(rec)
    read = sorted(p for p in (folder/'f').rglob('*') if p.is_file() and p.name != 'README.md')     # the card is for people
    for _ in range(n):
        undo = flip(rng.choice(sorted(store.iterdir())), rng)
        COUNT['flips: cache, rows lost'] += 200 - right_rows(store, texts); undo(); COUNT['flips: cache'] += 1
        undo = flip(path, rng); refused(load_state, path); undo(); COUNT['flips: checkpoint'] += 1
        undo = flip(rng.choice(read), rng); refused(Recommender.load, folder/'f'); undo(); COUNT['flips: model'] += 1
    assert right_rows(store, texts) == 200 and alike(answers(Recommender.load(folder/'f')), want)

def refused(f, *a):
    "Calling `f` is an error of ours."
    try: f(*a)
    except (InputError, FileNotFoundError): return
    raise AssertionError(f'{f.__name__} took a damaged file')

def flips_run(folder, argv, n, rng):
    "Flip bits in what `llmrec run` remembers: the next run makes the damaged part again."
    out = folder/'undisturbed'; want = results(out)
    for _ in range(n):
        flip(rng.choice(sorted(p for p in out.rglob('*') if p.is_file() and p.suffix in ('.result', '.json', '.safetensors', '.csv'))), rng)
        p = child(command, *argv, '--out', str(out)); p.join()
        assert p.exitcode == 0 and results(out) == want, 'a flipped bit changed a result'
        COUNT['flips: run'] += 1

# Full disks, folders that cannot be written, two runs at once
def limited(size, f, *a):
    "Run `f` in a process whose files may not grow beyond `size` bytes: an error of the system, as on a full disk."
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try: return f(*a) or 0
    except OSError: return 28

def resave(rec, path): rec.save(path)

def full_disk(folder, argv, sizes=(0, 1, 100, 4096, 20_000)):
    "Sizes at which writing fails here and there: old files stay whole, the command ends with 2."
    rec, path = fitted(0), folder/'full'
    rec.save(path); want = answers(rec)
    other = Recommender('tfidf', seed=1, experts=few).fit(world().target)
    for size in sizes:
        p = child(limited, size, resave, other, path); p.join()
        assert p.exitcode == 28 and alike(answers(Recommender.load(path)), want), (size, p.exitcode)
        out = folder/f'full{size}'
        p = child(limited, size, command, *argv, '--out', str(out)); p.join()
        assert p.exitcode == 2 and not (out/'report.html').exists() and not list(out.rglob('.*.tmp')), (size, p.exitcode)
        COUNT['full disks'] += 2

def as_nobody(f, *a):
    os.setgid(65534); os.setuid(65534)
    return f(*a)

def read_only(folder, argv):
    "A folder that belongs to somebody else."
    if os.getuid(): return
    folder.chmod(0o755); (folder/'closed').mkdir(mode=0o755)
    for p in folder.glob('*.csv'): p.chmod(0o644)
    p = child(as_nobody, command, *argv, '--out', str(folder/'closed'/'out')); p.join()
    assert p.exitcode == 2 and not list((folder/'closed').iterdir()), p.exitcode
    COUNT['read-only folders'] += 1

def two_runs(folder, argv):
    "Two runs into one folder: one works, the other, which comes while the first is held in the middle, is sent away; the result is that of one."
    out = folder/'two'
    first = child(command, *argv, '--out', str(out))
    while first.exitcode is None and not list(out.rglob('*.result')): time.sleep(.01)
    os.kill(first.pid, signal.SIGSTOP)
    second = child(command, *argv, '--out', str(out)); second.join()
    os.kill(first.pid, signal.SIGCONT); first.join()
    assert (first.exitcode, second.exitcode) == (0, 2) and results(out) == results(folder/'undisturbed')
    COUNT['two runs in one folder'] += 1

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--kills', type=int, default=25); p.add_argument('--flips', type=int, default=60); p.add_argument('--seed', type=int, default=0)
    a = p.parse_args()
    warnings.simplefilter('ignore'); torch.set_num_threads(1)
    rng = random.Random(a.seed)
    with tempfile.TemporaryDirectory() as d:
        os.environ['LLMREC_CACHE'] = str(Path(d)/'cache')
        for name, f in KILLS.items():
            (folder := Path(d)/name).mkdir()
            argv = f(folder, a.kills, rng)
            print(f'{name}: {a.kills} kills survived', flush=True)
        flips(Path(d), a.flips, rng); flips_run(folder, argv, max(a.flips//10, 1), rng)
        full_disk(folder, argv); Path(d).chmod(0o755); read_only(folder, argv); two_runs(folder, argv)
    for k, v in sorted(COUNT.items()): print(f'{v:8,}  {k}')

if __name__ == '__main__': main()
