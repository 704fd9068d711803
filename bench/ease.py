"""What EASE gives up beyond its cap: the full inverse, the items within the cap alone, the rest by neighbours, and a low rank.

    python bench/ease.py --movielens DIR --data DIR2      # DIR holds ml-1m/, DIR2 amazon_food_kitchen_LLMCDSR/; writes bench/ease.csv

NDCG@10 of each user's last training row (3,000 users at most) among all items, by `next_item_ranks`; λ = 300, half-life 10. `beyond` is the
share of these rows whose item stands beyond the cap, `lo` and `hi` the paired 95 % interval of the gain over the cap alone; seconds are
processor time of the fit. The full inverse over food and kitchen (36,000 items) needs 10 GiB and is left out.
`low rank` keeps X ≈ UΣVᵀ of the rank given under `cap`, so that P = V(1/(Σ² + λ) − 1/λ)Vᵀ + I/λ; it is compared with the largest cap.
"""
import argparse, time
from pathlib import Path
import numpy as np, pandas as pd
from scipy.sparse.linalg import svds
from llmrec.metrics import ndcg_of_ranks
from llmrec.dataset import (
    binarize, decayed_matrix, make_dataset, split_last_interaction, next_item_ranks,
    select_users)
from llmrec.closed_form import EASE

LAM, HALF = 300., 10.


class LowRankEASE(EASE):
    "EASE from the first `max_items` singular directions."
    def _fit(self, data):
        X = binarize(decayed_matrix(data.hist, data.n_items)).astype(float)
        _, s, self.V = svds(X, k=self.max_items, random_state=0)
        self.w = 1/(s**2 + self.lam) - 1/self.lam
        self.diag = 1/self.lam + (self.V**2*self.w[:, None]).sum(0)
    def score_histories(self, hist):
        x, n = decayed_matrix(hist, self.data.n_items, self.half_life), self.data.n_target
        own = x[:, :n].toarray()
        return own - ((x @ self.V.T*self.w) @ self.V[:, :n] + own/self.lam)/self.diag[:n]

def measure(name, d, caps, full, rank):
    rest, u, y = split_last_interaction(d); g = np.random.default_rng(0).permutation(len(u))[:3000]
    h, y = select_users(rest.hist, u[g]), y[g]
    forms = [('full', None, EASE(LAM, HALF, max_items=10**9))] if full else []
    for c in caps: forms += [('cap', c, EASE(LAM, HALF, max_items=c, n_neighbours=0))] + [(f'cap, {k} neighbours', c, EASE(LAM, HALF, max_items=c, n_neighbours=k)) for k in (20, 50, 100)]
    if rank: forms.append(('low rank', rank, LowRankEASE(LAM, HALF, max_items=rank)))
    for form, c, e in forms:
        t = time.process_time(); e.fit_dataset(rest); t = time.process_time() - t
        v = ndcg_of_ranks(next_item_ranks(e.score_histories, h, y, d.n_target), 10)
        if form == 'cap': base, out = v, ~np.isin(y, e.rows)
        r = dict(set=name, items=d.n_items, form=form, cap=c, ndcg=round(float(v.mean()), 4), seconds=round(t, 2))
        if form != 'full':
            gain, half = (v - base).mean(), 1.96*(v - base).std()/len(v)**.5
            r |= dict(beyond=round(out.mean(), 3), ndcg_beyond=round(v[out].mean(), 4), gain=round(gain, 4), lo=round(gain - half, 4), hi=round(gain + half, 4))
        r = {k: float(x) if isinstance(x, np.floating) else x for k, x in r.items()}; print(r, flush=True); yield r

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--movielens', required=True); p.add_argument('--data', required=True); p.add_argument('--out', default=str(Path(__file__).with_name('ease.csv')))
    a = p.parse_args()
    from common import read as normalised, write
    from llmrec.readers import read_recbole
    ml, food, kitchen = read_recbole(f'{a.movielens}/ml-1m'), *(normalised(f'{a.data}/amazon_food_kitchen_LLMCDSR', n) for n in ('food', 'kitchen'))
    rows = [*measure('ml-1m', make_dataset(ml.log, ml.items), (1000, 2000), True, 500),
            *measure('food, kitchen', make_dataset(food.log, food.items, kitchen), (1000, 5000), False, 0)]
    write(pd.DataFrame(rows), a.out)


if __name__ == '__main__': main()
