"""Items that nobody has taken: are they ordered well, and what do places of their own cost?

    python bench/cold_items.py DIR --csv bench/cold_items.csv --sets tweets 'beauty<kitchen'

A fifth of the items lose all their training interactions. *cold*: test interactions with them, ranked among the cold items alone (`among` cold) or among all (`among` all):
the fusion (`budget='fast'`), the same without its last step (`not raised`), its experts, content by default settings, and factors of ALS mapped from text by a ridge (LinMap, the best of three λ on these test rows).
*every*: all test interactions, by the list of ten that `recommend` gives, `not raised` or with `fresh` 0 to .4; `share` is how many of the ten places items with fewer than five interactions
get. `difference` is the fusion (or `fresh` 0) minus the system, NDCG@10, with a paired 95 % interval over users; what was seen before is masked.
"""
import re
import numpy as np, pandas as pd
from contextlib import contextmanager
from common import by_set, load
from gate import ranks

def ndcg(rank): return np.where(rank < 10, 1/np.log2(np.maximum(rank, 0) + 2), 0)

def mapped(data, hist, lam):
    "Scores of ALS whose cold items have factors predicted from features."
    from llmrec.baselines import ALS
    from llmrec.features import item_features
    als = ALS().fit_dataset(data)
    V, phi = als.item_matrix().copy(), item_features(data)[:data.n_target]
    warm = data.counts[:data.n_target] > 0
    users = np.linalg.lstsq(V[warm], als.score_histories(hist)[:, warm].T, rcond=None)[0].T
    V[~warm] = phi[~warm] @ np.linalg.solve(phi[warm].T @ phi[warm] + lam*np.eye(phi.shape[1]), phi[warm].T @ V[warm])
    return users @ V.T

@contextmanager
def not_raised(rec):
    "The recommender as it would be without the last step of its fit, `raise_new_items`."
    height = sum(float(x) for x in re.findall(r'new items raised by ([\d.]+)', ' '.join(rec.plan)))
    rec.fusion.gate.offset_weights[0, 0] -= height
    yield
    rec.fusion.gate.offset_weights[0, 0] += height

def row(name, what, among, system, values, base, recall, n, **more):
    from llmrec.metrics import paired_interval
    gain = base - values
    low, high = paired_interval(gain) if gain.any() else (0., 0.)
    return dict(set=name, what=what, among=among, system=system, users=n, ndcg=values.mean(), recall=recall, difference=gain.mean(), lo=low, hi=high, **more)

def cold_rows(name, rec, test, cold):
    "Test interactions with cold items, by scores."
    from llmrec.baselines import Content
    from llmrec.dataset import histories, seen_items
    data = rec.data
    item = pd.Index(data.items).get_indexer(test['item'])
    hist = histories(data, test['user'])
    scores = {'fusion': rec.fusion.score_histories(hist)}
    with not_raised(rec): scores['not raised'] = rec.fusion.score_histories(hist)
    scores |= {f'· {label}': x.score_histories(hist) for label, x in zip(rec.summary().columns, rec.experts)}
    scores['content'] = Content().fit_dataset(data).score_histories(hist)
    maps = [mapped(data, hist, lam) for lam in (1., 10., 100.)]
    new = ~seen_items(hist, data.n_target)
    among = {'cold': new & np.isin(data.items, list(cold)), 'all': new}
    scores['LinMap'] = max(maps, key=lambda s: ndcg(ranks(s.__getitem__, among['cold'], item)).mean())
    rows = []
    for label, allowed in among.items():
        base = ndcg(ranks(scores['fusion'].__getitem__, allowed, item))
        for system, s in scores.items():
            r = ranks(s.__getitem__, allowed, item)
            rows.append(row(name, 'cold', label, system, ndcg(r), base, (r < 10).mean(), len(item)))
    return rows

def list_rows(name, rec, test, cold):
    "All test interactions, by lists with more and more places for rare items."
    few = np.asarray(rec.items)[rec.data.counts[:len(rec.items)] < 5]
    is_cold = test['item'].isin(cold).to_numpy()
    rows = []
    users = test['user'].to_numpy()
    found = {f'fresh {fresh:g}': rec.recommend(users, k=10, fresh=fresh)[0] for fresh in (0., .1, .2, .3, .4)}
    with not_raised(rec): found['not raised'] = rec.recommend(users, k=10)[0]
    for system, lists in found.items():
        hit = lists == test['item'].to_numpy()[:, None]
        rank = np.where(hit.any(1), hit.argmax(1), 10)
        value = ndcg(rank)
        base = value if system == 'fresh 0' else base
        rows.append(row(name, 'every', 'all', system, value, base, (rank < 10).mean(), len(test),
                        cold_recall=(rank < 10)[is_cold].mean(), share=np.isin(lists, few).mean()))
    return rows

def run(root, name, users):
    from llmrec.recommender import Recommender
    target, split, source, _ = load(root, name, 10**9)
    items = np.sort(target.items['item'].unique())
    cold = set(np.random.default_rng(0).choice(items, len(items)//5, replace=False))
    train, valid = (x[~x['item'].isin(cold)] for x in (split.train, split.valid))
    rec = Recommender('minilm', budget='fast').fit(target.with_log(train), source, valid)
    known = split.test[split.test['user'].isin(train['user'])]
    test = known[known['item'].isin(cold)]
    rows = cold_rows(name, rec, test.sample(min(len(test), users), random_state=0), cold)
    rows += list_rows(name, rec, known.sample(min(len(known), users), random_state=0), cold)
    print(pd.DataFrame(rows).round(4).to_string(index=False), flush=True)
    return rows

if __name__ == '__main__': by_set(__doc__, run, 'cold_items.csv', ('tweets', 'beauty<kitchen', 'toys', 'beauty', 'retail', 'lastfm', 'microlens', 'ml-100k'), ('set', 'what', 'among', 'system'))
