"""What leave-one-out leaks across users: the same model, the same test rows, with and without the future of others.

    python bench/future.py [--out bench/future.csv] [--moments .3 … .9]      # five minutes; MovieLens and Journey

`paired_time_splits` gives three training logs for one test: the past, the past and the future of other users, and as
many rows of that as the past has. Differences to the past are paired by user, users of all moments together."""
import argparse, time
from pathlib import Path
import numpy as np, pandas as pd
from llmrec.baselines import ItemKNN, Popularity
from llmrec.closed_form import EASE
from common import write
from llmrec.evaluation import evaluate
from llmrec.metrics import holm, paired_interval, permutation_p
from llmrec.preprocess import clean, paired_time_splits, regime
from llmrec.readers import load_journey, load_movielens

HERE = Path(__file__).resolve().parent
SETS = {'MovieLens': lambda: clean(load_movielens(), k_item=5, bots=False)[0],
        'Journey, health food': lambda: clean(load_journey().target, k_item=3, bots=False)[0]}
MODELS = {'popularity': Popularity, 'ItemKNN': ItemKNN, 'EASE': lambda: EASE(200.)}

def measured(domain, moments):
    "NDCG@10 of each test row, by model and training log; and the share of rows whose item has a known future."
    found, future, tested = {}, [], 0
    for at in moments:
        parts = paired_time_splits(domain, at)
        future.append(regime(parts['future'])['future']*len(parts['past'].test))
        tested += len(parts['past'].test)
        for name, split in parts.items():
            for model, make in MODELS.items():
                rec = make().fit(split.train, domain.items)
                report = evaluate(rec, split, audit=False, beyond=False, slices=(), n_boot=0)
                found.setdefault((model, name), []).append(report.per_user['ndcg@10'].to_numpy())
    return {key: np.concatenate(values) for key, values in found.items()}, sum(future)/tested

def rows(name, domain, moments):
    "One row a model and training log."
    found, future = measured(domain, moments)
    for (model, log), values in found.items():
        gain = values - found[model, 'past']
        lo, hi = paired_interval(gain) if log != 'past' else (0., 0.)
        yield dict(set=name, model=model, training=log, test=len(values), future=future, ndcg=values.mean(), gain=gain.mean(),
                   lo=lo, hi=hi, p=permutation_p(gain))

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--out', default=str(HERE/'future.csv'))
    p.add_argument('--moments', nargs='*', type=float, default=[.3, .4, .5, .6, .7, .8, .9])
    a = p.parse_args()
    t = time.time()
    table = pd.DataFrame([row for name, load in SETS.items() for row in rows(name, load(), a.moments)])
    table['p_holm'] = np.nan
    tested = table.training != 'past'
    table.loc[tested, 'p_holm'] = holm(table.p[tested])
    write(table.round(5), a.out, '%.10g')
    print(table.round(4).to_string(), f'\n{time.time() - t:.0f} s')


if __name__ == '__main__': main()
