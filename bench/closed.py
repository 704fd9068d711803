"""Closed forms, scores and filters beside what one would write or install instead: NumPy's inverse, `implicit`, argpartition, pandas.

    pip install "llmrec[baselines]"
    OMP_NUM_THREADS=1 python bench/closed.py                    # 5,000 items, 20,000 users, 600,000 interactions; some ten minutes on one core
    OMP_NUM_THREADS=1 python bench/closed.py --items 1000 --users 2000 --rows 40000 --filter 20000
    OMP_NUM_THREADS=1 python bench/closed.py --ratios bench/ratios.csv         # the rows that chapter 59 shows

One process, one thread, turns taken in every round, medians of the rounds' ratios. Seconds are processor time, which other programs disturb least. Where the work can be counted, the operations over the machine's measured float32 product (or the bytes over its measured read) give the
share of the limit. Both sides of a row must agree: the last column is their largest difference, or the share of equal entries.
"""
import argparse, os, platform
os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np, scipy, torch
from common import keep_ratios, machine, ratio_row, turns
from latency import catalogue


def numpy_ease(X, lam):
    "EASE as the paper prints it."
    G = (X.T @ X).toarray()
    G[np.diag_indices_from(G)] += np.float32(lam)
    P = np.linalg.inv(G)
    B = P/-np.diag(P)
    B[np.diag_indices_from(B)] = 0
    return B

def partitioned(scores):
    "The ten best of each row by NumPy."
    best = np.argpartition(-scores, 9, axis=1)[:, :10]
    values = np.take_along_axis(scores, best, 1)
    return np.take_along_axis(best, np.argsort(-values, 1), 1)


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--items', type=int, default=5000); p.add_argument('--users', type=int, default=20_000); p.add_argument('--rows', type=int, default=600_000)
    p.add_argument('--filter', type=int, default=100_000, help='items of the table that is filtered'); p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--ratios', help='CSV that takes the rows')
    a = p.parse_args()
    import implicit
    from implicit.nearest_neighbours import CosineRecommender
    from llmrec.baselines import ItemKNN
    from llmrec.closed_form import ease
    from llmrec.dataset import binarize, decayed_matrix, make_dataset
    from llmrec.lists import item_mask, top_columns
    torch.set_num_threads(1)
    print(f'{platform.processor() or platform.machine()}, one thread; NumPy {np.__version__}, SciPy {scipy.__version__}, torch {torch.__version__}, implicit {implicit.__version__}')
    rate = machine()
    print(f'limits: {rate["flops"]/1e9:.0f} GFLOP/s float32, {rate["bytes"]/2**30:.1f} GiB/s')
    rows = []
    def row(question, against, size, ours, theirs, limit=None, agree=lambda a, b: ''):
        t, last = turns(dict(ours=ours, theirs=theirs), a.rounds)
        rows.append(ratio_row(question, against, size, t['ours'], t['theirs'], limit, agree(last['ours'], last['theirs'])))
    def equal(a, b): return f'{(a == b).mean():.3f} equal'

    log, items, _ = catalogue(a.items, a.users, a.rows, 8)
    data = make_dataset(log, items)
    X = binarize(decayed_matrix(data.hist, data.n_items))
    row('EASE', 'numpy.linalg.inv', f'{a.items:,} items', lambda: ease(X, 100.), lambda: numpy_ease(X, 100.), a.items**3/rate['flops'],
        lambda a, b: f'{np.abs(a - b).max():.0e} apart')
    def theirs():
        model = CosineRecommender(K=101, num_threads=1)
        model.fit(X, show_progress=False)
    row('ItemKNN, cosine, 100', 'implicit', f'{a.items:,} items', lambda: ItemKNN(shrink=0.).fit_dataset(data), theirs)
    scores = np.random.default_rng(0).normal(size=(256, a.items)).astype('f4')
    row('10 best of 256 users', 'argpartition', f'{a.items:,} items', lambda: top_columns(scores, 10)[0], lambda: partitioned(scores),
        scores.nbytes/rate['bytes'], equal)
    table = catalogue(a.filter, 100, 2000, 8)[1]
    columns = {name: table[name] for name in table}
    rules = dict(category='t7', price=(5, 20))
    row('filter by category and price', 'pandas', f'{a.filter:,} items', lambda: item_mask(columns, **rules),
        lambda: ((table['category'] == 't7') & table['price'].between(5, 20)).to_numpy(), agree=equal)
    keep_ratios(rows, f'python bench/closed.py --items {a.items} --users {a.users} --rows {a.rows} --filter {a.filter}', a.ratios)


if __name__ == '__main__': main()
