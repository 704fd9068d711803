"""Where should item vectors of a sequence model begin: at noise, or at what texts and histories know?

    python bench/first_vectors.py DIR --csv bench/first_vectors.csv

SASRec alone, learned from training and validation interactions, all items ranked on the test (`common.py`); after 3, 7 and 14 passes, each trained by
its own schedule. Starts: `random` (a normal of .02), `data` (`init='data'`), and its parts alone after seven passes, `texts` and `histories`.
`gain` is NDCG@10 over `random` after as many passes, with a paired 95 % interval over users; seconds are processor seconds of the fit. Nothing is chosen here.
"""
import numpy as np, pandas as pd
from common import by_set, judge_by, load, timed, versus

PASSES = (3, 7, 14)

def starts():
    "Functions of an unfitted network that give it its first vectors, by name."
    import llmrec.sequence as S
    def texts(self, data):
        from llmrec.features import item_features, pca_features
        found = pca_features(item_features(data), self.dim)[:self.n_embedded]
        return found - found.mean(0)
    def histories(self, data): return S.history_directions(self.train_histories(data), self.n_embedded, self.dim, self.seed)
    return {'random': None, 'texts': texts, 'histories': histories, 'data': 'data'}

def network(start, passes):
    "An unfitted SASRec with this start."
    import torch
    from llmrec.sequence import SASRec
    class Begun(SASRec):
        def begin_with_data(self, data):
            first = start(self, data)
            with torch.no_grad(): self._net.emb.weight[:len(first)] = torch.from_numpy(np.float32(.1*first/first.std()))
    kind = Begun if callable(start) else SASRec
    return kind(epochs=passes, init='data' if start else 'random')

def one(root, name, users):
    "Rows of one set."
    from llmrec.baselines import Popularity
    from llmrec.recommender import Recommender
    target, split, source, gone = load(root, name, users)
    data = Recommender('minilm', experts=lambda *a: [Popularity()]).fit(target.with_log(split.train), source, split.valid).data
    judge = judge_by(target, split, gone)
    rows = []
    for passes in PASSES:
        base = None
        for start, how in starts().items():
            if passes != 7 and callable(how): continue
            expert, seconds = timed(lambda: network(how, passes).fit_dataset(data))
            found = judge(expert).per_user['ndcg@10']
            base = found if base is None else base
            gain, low, high = versus(found, base) if start != 'random' else (0., 0., 0.)
            rows.append(dict(set=name, passes=passes, start=start, users=len(found), ndcg=found.mean(), gain=gain, lo=low, hi=high, seconds=seconds))
            print(rows[-1], flush=True)
    return rows

if __name__ == '__main__': by_set(__doc__, one, 'first_vectors.csv', ('toys', 'kitchen<beauty-k2'), ('set', 'passes', 'start'), 2000)
