"""What privacy costs and buys, on Complete Journey: NDCG@10 of a private head by ε, and membership inference against it.

    python bench/privacy.py --seeds 5 --models 16 --out bench/privacy.csv

Households are cut in two: a third is open and gives the source (GROCERY), the others are the target (PRODUCE) and are protected.
The chapter 22_privacy builds the same world and reads the table. Rows are written as they come.
"""
import argparse, copy, time
import numpy as np, pandas as pd, torch
from common import write
from llmrec.data import Domain
from llmrec.readers import load_journey
from llmrec.encode import TextEncoder
from llmrec.dataset import make_dataset
from llmrec.baselines import Popularity
from llmrec.evaluation import evaluate
from llmrec.preprocess import item_text, split_last
from llmrec.privacy import (
    ItemHead, DPHead, advantage, advantage_bound, membership_inference, fit_private, lira,
    per_user_loss)


def world(n_items=500, seed=0):
    "Open and protected households: index, split, target."
    j = load_journey('GROCERY', 'PRODUCE')
    people = np.random.default_rng(seed).permutation(np.union1d(j.source.users, j.target.users))
    openly, hidden = people[:len(people)//3], people[len(people)//3:]
    most = lambda d: d.log[d.log.user.isin(openly)].item.value_counts().index[:n_items]
    part = lambda d, users, items: Domain(d.name, d.log[d.log.user.isin(users) & d.log.item.isin(items)], d.items[d.items.item.isin(items)])
    groceries, target = part(j.source, openly, most(j.source)), part(j.target, hidden, most(j.target))
    groceries = groceries.with_log(groceries.log[groceries.log.time < groceries.log.time.median()])
    split = split_last(target, n_valid=0)
    V = TextEncoder('minilm').encode(item_text(target.items) + item_text(groceries.items))
    return make_dataset(split.train, target.items, groceries, V), split, target

def ndcg(e, split, target):
    return evaluate(e, split, items=target.items, exclude_seen=False, beyond=False, slices=(), n_boot=0, audit=False)['ndcg@10']

def losses_of(eps, start, X, Y, m, seed):
    "Losses of all people under a head that was trained on the members `m`."
    net = copy.deepcopy(start)
    fit_private(net, X[m], Y[m], eps, seed=seed)
    with torch.no_grad(): return per_user_loss(net(X), Y).numpy()

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seeds', type=int, default=5); p.add_argument('--models', type=int, default=16)
    p.add_argument('--grid', type=float, nargs='*', default=[.25, .5, 1., 2., 4., 8., np.inf])
    p.add_argument('--attacked', type=float, nargs='*', default=[1., 8., np.inf])
    p.add_argument('--out', default='bench/privacy.csv')
    a = p.parse_args()
    d, split, target = world()
    rows, t0 = [], time.time()
    def add(**r):
        rows.append(r); write(pd.DataFrame(rows), a.out, '%.5f'); print(f'{time.time() - t0:6.0f} s', r, flush=True)

    own = np.arange(d.n_items) < d.n_target
    mine = np.bincount(d.hist.user, own[d.hist.item], len(d.users)) > 0
    e = DPHead(8., seed=0).fit_dataset(d)
    X, Y, _ = e.samples(d, mine, own)
    start = ItemHead(e.phi[own]); e.begin(start, d, ~mine, own)
    add(kind='ndcg', epsilon=np.inf, start='popularity', seed=0, value=ndcg(Popularity().fit_dataset(d), split, target))
    g = np.random.default_rng(0)
    half = [g.permutation(len(X)) < len(X)//2 for _ in range(a.models//2)]
    member = np.array([x for h in half for x in (h, ~h)])
    for eps in a.attacked:
        L = np.array([losses_of(eps, start, X, Y, m, i) for i, m in enumerate(member)])
        for name, r in membership_inference(L, member).iterrows(): add(kind='attack', epsilon=eps, start=name, seed=len(member), value=r.auc, low=r.low, high=r.high, found=r.found_at_1pc)
        add(kind='advantage', epsilon=eps, start='LiRA', seed=len(member), value=np.mean([advantage(m, s) for m, s in zip(member, lira(L, member))]),
            high=advantage_bound(eps, 1/(10*member[0].sum())))
    for seed in range(a.seeds):
        for eps in a.grid:
            for source in (True, False):
                e = DPHead(eps, source=source, seed=seed).fit_dataset(d)
                add(kind='ndcg', epsilon=eps, start='from the source' if source else 'from scratch', seed=seed, value=ndcg(e, split, target))

if __name__ == '__main__': main()
