"""What a card is worth: encoding, training, EASE and scoring on a GPU, as ratios to the CPU of the same machine, in one run of at most eight minutes.

    python bench/gpu.py                                  # on the machine with the card; generated data, the MiniLM that pip brings
    python bench/gpu.py --device cpu --small             # the same code without a card, to see that it runs (ratios near 1)
    python bench/gpu.py --device far --small             # on the device that the tests pretend: what mixes devices is an error

Each part runs on both devices, rounds interleaved, medians printed; a part that would not end in time on the CPU is measured there on less and
the row says so. Beside the ratio stand the operations that the part needs (counted, not measured) as a share of the matrix product that the device
reaches in the same number format. Sizes: 20,000 texts of about 20 tokens; one epoch of SASRec over a million interactions; EASE over 30,000 items from
5 million interactions (the CPU at 12,000, and at 30,000 if there is time); scores of 2,048 users over those items. A line says whether both agree.

What a part said is kept in `--work`; a run that was stopped goes on with the parts that are missing, a part that fails is named and the others run,
and none begins when the minutes are over; the exit status is 0 when all parts are there. As of November 2026 it has not been run on a card.
"""
import argparse, json, os, platform, sys, tempfile, time
from pathlib import Path
import numpy as np, scipy.sparse as sp, torch

STARTED = time.perf_counter()


def left(minutes):
    "Seconds left."
    return 60*minutes - (time.perf_counter() - STARTED)


SAID = []

def say(line):
    "Print a line, and remember it."
    print(line, flush=True)
    SAID.append(line)


class Kept:
    "Lines of the parts that are done, in a file; another machine or size begins anew."
    def __init__(self, path, about, minutes):
        self.path, self.about, self.minutes, self.missing = Path(path), about, minutes, []
        found = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.parts = found.get('parts', {}) if found.get('about') == about else {}
    def part(self, name, call):
        "Run a part, or say again what it said."
        if name in self.parts: return print(*self.parts[name], sep='\n', flush=True)
        if left(self.minutes) < 20: return self.leave(name, 'no time is left')
        SAID.clear()
        try: call()
        except (RuntimeError, ImportError, MemoryError, ValueError) as error: return self.leave(name, f'{type(error).__name__}: {error}')
        self.parts[name] = SAID.copy()
        temporary = self.path.with_suffix('.tmp')
        temporary.write_text(json.dumps(dict(about=self.about, parts=self.parts), indent=1))
        os.replace(temporary, self.path)
    def leave(self, name, why):
        "A part that is not there."
        self.missing.append(name)
        print(f'{name}: MISSING, {why}'[:600], flush=True)


def seconds(call, device):
    "Wall seconds of a call, the device's queue included."
    begin = time.perf_counter()
    call()
    if torch.device(device).type == 'cuda': torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def medians(calls, rounds):
    "Median seconds by device, turns taken; each is called once before."
    for device, call in calls.items(): call()
    times = {device: [] for device in calls}
    for _ in range(rounds):
        for device, call in calls.items(): times[device].append(seconds(call, device))
    return {device: float(np.median(x)) for device, x in times.items()}


def peak(device, n):
    "GFLOP/s of a product of two square float32 matrices."
    a = torch.randn(n, n, device=device)
    return 2*n**3/min(seconds(lambda: a @ a, device) for _ in range(4))/1e9


def show(name, times, devices, gflop=None, peaks=None, note=''):
    "One row: seconds on both, ratio, share of the peak."
    far, near = (times[device] for device in devices)
    share = '' if gflop is None else '  '.join(f'{gflop/times[d]/peaks[d]:5.1%} of {d}' for d in devices)
    say(f'{name:34s} {far:9.3f} s {near:9.3f} s   ratio {near/far:7.1f}x   {share}  {note}')


def interactions(users, items, n, seed=0):
    "A long-tailed matrix of ones."
    rng = np.random.default_rng(seed)
    column = np.minimum((items*rng.random(n)**2).astype(np.int64), items - 1)
    X = sp.csr_matrix((np.ones(n, np.float32), (rng.integers(users, size=n), column)), (users, items))
    X.data[:] = 1
    return X


def encoding(devices, peaks, n, rounds):
    from llmrec.encode import TextEncoder
    rng = np.random.default_rng(0)
    words = 'red green fresh organic large small milk bread soup bean tea oil nut corn rice fish salt cake'.split()
    texts = [' '.join(rng.choice(words, 16)) + f' {i}' for i in range(n)]
    encoders = {d: TextEncoder('minilm', device=d, dtype='float32', cache=False) for d in devices}
    part = {d: texts if torch.device(d).type != 'cpu' else texts[:max(n//10, 100)] for d in devices}
    times = medians({d: lambda d=d: encoders[d].encode(part[d]) for d in devices}, rounds)
    times = {d: t*n/len(part[d]) for d, t in times.items()}
    tokens = sum(map(len, encoders[devices[0]].tokenize(texts[:1000])))*n/1000
    show(f'encode {n:,} texts', times, devices, 2*21.3e6*tokens/1e9*.5, peaks, 'CPU: a tenth of the texts; layers alone counted')
    a, b = (encoders[d].encode(texts[:200]) for d in devices)
    say(f'    lowest cosine of the two: {(a*b).sum(1).min():.6f}')


def training(devices, users, items, rounds):
    from functools import partial
    from llmrec.dataset import Histories
    from llmrec.learner import ClipCB, DataLoaders, Learner, adamw
    from llmrec.sequence import SeqBatches, SeqNet, seq_loss
    rng = np.random.default_rng(0)
    item = (items*rng.random(users*50)**2).astype(np.int64)
    hist = Histories(np.arange(users + 1)*50, item, np.ones(len(item), np.float32))
    calls = {}
    for d in devices:
        torch.manual_seed(0)
        few = users if torch.device(d).type != 'cpu' else max(users//20, 20)
        own = Histories(hist.ptr[:few + 1], hist.item[:50*few], hist.weight[:50*few])
        net = SeqNet(items, 64)
        batches = SeqBatches(own, items, size=50, tokens=12_800)
        learn = Learner(net, DataLoaders(batches), partial(seq_loss, ranges=[(0, items)]), adamw, 1e-3, [ClipCB(5.)], device=d)
        calls[d] = lambda learn=learn: learn.fit(1)
    times = medians(calls, rounds)
    times = {d: t*(1 if torch.device(d).type != 'cpu' else users/max(users//20, 20)) for d, t in times.items()}
    show(f'SASRec, an epoch of {len(item):,}', times, devices, note=f'{items:,} items, full softmax; CPU: a twentieth of the users')


def closed_form(devices, peaks, small, large, rows, minutes):
    from llmrec.closed_form import ease
    from llmrec.core import default_device
    def fit(X, d):
        with default_device(d): return ease(X, 100.)
    X = interactions(rows//50, small, rows)
    found = {d: fit(X, d) for d in devices}
    say(f'    EASE: largest difference {np.abs(found[devices[0]] - found[devices[1]]).max():.1e}')
    times = medians({d: lambda d=d: fit(X, d) for d in devices}, 1)
    show(f'EASE, {small:,} items', times, devices, small**3/1e9, peaks, 'only the inversion is counted')
    X = interactions(rows//50, large, rows)
    cubic = times[devices[1]]*(large/small)**3
    more = cubic < left(minutes)*.5
    far = seconds(lambda: fit(X, devices[0]), devices[0])
    near = seconds(lambda: fit(X, devices[1]), devices[1]) if more else cubic
    show(f'EASE, {large:,} items', {devices[0]: far, devices[1]: near}, devices, large**3/1e9, peaks, '' if more else 'CPU: cubic from the row above')


def scoring(devices, items, rows, users, rounds):
    from llmrec.algebra import history_product
    X = interactions(rows//50, items, rows)
    rng = np.random.default_rng(0)
    B = rng.normal(size=(X.shape[1], X.shape[1])).astype(np.float32)
    part = {d: X[:users if torch.device(d).type != 'cpu' else max(users//16, 16)] for d in devices}
    times = medians({d: lambda d=d: history_product(part[d], B, device=d) for d in devices}, rounds)
    times = {d: t*users/part[d].shape[0] for d, t in times.items()}
    show(f'scores, {users:,} users x {len(B):,}', times, devices, note=f'{users/times[devices[0]]:,.0f} and {users/times[devices[1]]:,.0f} users a second')
    a, b = (history_product(X[:16], B, device=d) for d in devices)
    say(f'    scores: largest difference {np.abs(a - b).max()/np.abs(b).max():.1e} of the largest')


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--device', default='cuda')
    p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--minutes', type=float, default=8.)
    p.add_argument('--small', action='store_true', help='tiny sizes, to see that it runs')
    p.add_argument('--work', default=Path(tempfile.gettempdir())/'llmrec-gpu.json', help='file that keeps the parts that are done')
    a = p.parse_args()
    if a.device == 'far':
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]/'tests'))
        from second_device import install
        library = install()                                            # known to PyTorch as long as this name lives
    devices = [a.device, 'cpu' if a.device != 'cpu' else 'cpu:0']
    f = .02 if a.small else 1.
    name = torch.cuda.get_device_name(a.device) if torch.device(a.device).type == 'cuda' else 'no card'
    about = f'{name}; {os.cpu_count()} cores, {torch.get_num_threads()} threads; torch {torch.__version__}, numpy {np.__version__}, {platform.platform()}'
    kept = Kept(a.work, [about, *devices, a.small], a.minutes)
    print(about)
    peaks = {d: peak(d, 8192 if torch.device(d).type == 'cuda' else 512 if a.small else 4096) for d in devices}
    print('float32 product, GFLOP/s:', {d: round(x) for d, x in peaks.items()})
    items, rows = int(30_000*f), int(5_000_000*f)
    kept.part('scores', lambda: scoring(devices, items, rows, int(2_048*f) or 16, a.rounds))
    kept.part('encode', lambda: encoding(devices, peaks, int(20_000*f), min(a.rounds, 3) if a.small else a.rounds))
    kept.part('train', lambda: training(devices, int(20_000*f), int(20_000*f), 1 if a.small else min(a.rounds, 3)))
    kept.part('EASE', lambda: closed_form(devices, peaks, int(12_000*f), items, rows, a.minutes))
    print(f'{time.perf_counter() - STARTED:.0f} s in all' + (f'; missing: {", ".join(kept.missing)}' if kept.missing else ''))
    return bool(kept.missing)


if __name__ == '__main__': sys.exit(main())
