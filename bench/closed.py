"""Closed forms, scores and filters beside what one would write or install instead: NumPy's inverse, `implicit`, argpartition, a scan of the table.

    pip install "llmrec[baselines]"
    OMP_NUM_THREADS=1 python bench/closed.py                    # 5,000 items, 20,000 users, 600,000 interactions; some ten minutes on one core
    OMP_NUM_THREADS=1 python bench/closed.py --items 1000 --users 2000 --rows 40000 --filter 20000

One process, one thread, turns taken in every round, medians of the rounds. Seconds are processor time, which other programs disturb least; `wall` stands
beside it. Where the work can be counted, the operations over the machine's measured float32 product (or the bytes over its measured read) give the
share of the limit. Both sides of a row must agree: the last column is their largest difference, or the share of equal entries.
"""
import argparse, os, platform, time
os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np, pandas as pd, scipy, scipy.sparse as sp, torch
from latency import catalogue


def clocks(call):
    "Processor and wall seconds of a call, and what it gave."
    a, b = time.process_time(), time.perf_counter()
    out = call()
    return time.process_time() - a, time.perf_counter() - b, out


def turns(ours, theirs, rounds):
    "Median processor and wall seconds of both; what they gave last."
    rows = {'ours': [], 'theirs': []}
    last = {}
    for number in range(rounds + 1):
        for name, call in (('ours', ours), ('theirs', theirs)):
            *t, last[name] = clocks(call)
            if number: rows[name].append(t)               # the first round warms up
    return {k: np.median(v, 0) for k, v in rows.items()}, last


def show(what, against, t, limit=None, agree=''):
    "One row; `limit`: seconds that the work needs at the machine's measured rate."
    share = '' if limit is None else f'{limit/max(t["ours"][0], 1e-9):6.1%} of the limit'
    print(f'{what:26s} {t["ours"][0]:9.4f} s  {against:28s} {t["theirs"][0]:9.4f} s  ratio {t["theirs"][0]/t["ours"][0]:7.2f}  wall {t["theirs"][1]/t["ours"][1]:7.2f}  {share:22s} {agree}', flush=True)


def numpy_ease(X, lam):
    "EASE as the paper prints it."
    G = (X.T @ X).toarray()
    G[np.diag_indices_from(G)] += np.float32(lam)
    P = np.linalg.inv(G)
    B = P/-np.diag(P)
    B[np.diag_indices_from(B)] = 0
    return B


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--items', type=int, default=5000); p.add_argument('--users', type=int, default=20_000); p.add_argument('--rows', type=int, default=600_000)
    p.add_argument('--filter', type=int, default=100_000, help='items of the table that is filtered'); p.add_argument('--rounds', type=int, default=5)
    a = p.parse_args()
    import implicit
    from implicit.nearest_neighbours import CosineRecommender
    from llmrec.baselines import ItemKNN
    from llmrec.closed_form import ease
    from llmrec.dataset import binarize, decayed_matrix, make_dataset
    from llmrec.lists import item_mask, top_columns
    torch.set_num_threads(1)
    print(f'{platform.processor() or platform.machine()}, one thread; NumPy {np.__version__}, SciPy {scipy.__version__}, torch {torch.__version__}, implicit {implicit.__version__}')
    square = np.random.default_rng(0).normal(size=(1024, 1024)).astype('f4')
    flops = 2*1024**3/min(clocks(lambda: square @ square)[0] for _ in range(7))
    read = np.zeros(2**25, 'f4')
    speed = read.nbytes/min(clocks(read.sum)[0] for _ in range(7))
    print(f'limits: {flops/1e9:.0f} GFLOP/s float32, {speed/2**30:.1f} GiB/s')

    log, items, _ = catalogue(a.items, a.users, a.rows, 8)
    data = make_dataset(log, items)
    X = binarize(decayed_matrix(data.hist, data.n_items))
    t, last = turns(lambda: ease(X, 100.), lambda: numpy_ease(X, 100.), a.rounds)
    show(f'EASE, {a.items:,} items', 'numpy.linalg.inv', t, a.items**3/flops, f'{np.abs(last["ours"] - last["theirs"]).max():.0e}')

    def theirs():
        model = CosineRecommender(K=101, num_threads=1)
        model.fit(X, show_progress=False)
        return model
    t, _ = turns(lambda: ItemKNN(shrink=0.).fit_dataset(data), theirs, a.rounds)
    show('ItemKNN, cosine, 100', 'implicit', t)

    scores = np.random.default_rng(0).normal(size=(256, a.items)).astype('f4')
    def partitioned():
        best = np.argpartition(-scores, 9, axis=1)[:, :10]
        values = np.take_along_axis(scores, best, 1)
        return np.take_along_axis(best, np.argsort(-values, 1), 1)
    t, last = turns(lambda: top_columns(scores, 10)[0], partitioned, a.rounds)
    show('10 best of 256 users', 'argpartition', t, scores.nbytes/speed, f'{(last["ours"] == last["theirs"]).mean():.3f} equal')

    table = catalogue(a.filter, 100, 2000, 8)[1]
    columns = {name: table[name] for name in table}
    rules = dict(category='t7', price=(5, 20))
    t, last = turns(lambda: item_mask(columns, **rules), lambda: item_mask(table.copy(), **rules), a.rounds)
    show(f'filter of {a.filter:,} items', 'the table read each time', t, None, f'{(last["ours"] == last["theirs"]).mean():.3f} equal')
    by_pandas = lambda: ((table['category'] == 't7') & table['price'].between(5, 20)).to_numpy()
    t, last = turns(lambda: item_mask(columns, **rules), by_pandas, a.rounds)
    show(f'filter of {a.filter:,} items', 'pandas', t, None, f'{(last["ours"] == last["theirs"]).mean():.3f} equal')


if __name__ == '__main__': main()
