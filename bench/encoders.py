"""Which encoder: content alone and in the fusion `fast`, warm and cold, and what a thousand texts cost.

    python bench/encoders.py DIR --work W                    # every set below that DIR holds; writes bench/encoders.csv
    python bench/encoders.py DIR --work W --sets lastfm food --users 500 --items 1500
    python bench/encoders.py --show                          # the table

Of each set so many users are drawn at random until they have `--items` items; these users and items are the shop. The last interaction
of each user is the test; a random fifth of the items loses all its training interactions. *warm*: test items that kept theirs, among
all items new to the user; *cold*: test items that lost theirs, among those that did. Content alone: cosine to the mean of whitened
vectors (.25), nothing learned. Fusion: `Recommender(encoder, budget='fast')`, whose own TF-IDF experts stay in every row. `diff` is
to the row `tfidf` of the same set and question, paired by user, bootstrap of 95 %. Seconds: processor time of one thread for a
thousand texts, without a cache. Resumable: vectors and users' values stay in W; a row that is there is not run again.
"""
import argparse, os, sys, time, warnings
from pathlib import Path
import numpy as np, pandas as pd
import common

OUT = Path(__file__).parent/'encoders.csv'
SETS = {'food': ('amazon_food_kitchen_LLMCDSR', 'food'), 'beauty': ('amazon_beauty_toys_2014', 'beauty'), 'tweets': ('movietweetings_100k', None),
        'retail': ('online_retail_uci_CRAN', None), 'lastfm': ('lastfm_hetrec2011', None), 'toys': ('amazon_beauty_toys_2014', 'toys'),
        'microlens': ('microlens_50k_DEALRec', None)}
ENCODERS = ('tfidf', 'minilm', 'e5-multilingual')

def load(root, name, users, items, seed=0):
    "Domain of some users, training log, test log, ids of the items that play new."
    from llmrec.data import Domain
    from llmrec.preprocess import split_last
    folder, domain = SETS[name]
    whole = common.invoices(root/folder) if name == 'retail' else common.read(root/folder, domain, 'timestamp' if name == 'tweets' else 'order')
    log = whole.log[whole.log.groupby('user')['item'].transform('size').between(3, 100)]
    order = pd.Series(np.random.default_rng(seed).permutation(log['user'].unique()))
    first = log.assign(place=log['user'].map(pd.Series(order.index, order))).sort_values('place', kind='stable')
    seen = (~first['item'].duplicated()).cumsum()
    last = first.loc[seen <= items, 'place'].max() - 1
    log = first[first['place'] < min(last, users)].drop(columns='place')
    own = Domain(name, log, whole.items[whole.items['item'].isin(log['item'])].reset_index(drop=True))
    split = split_last(own, n_valid=0)
    ids = own.items['item'].to_numpy()
    new = set(ids[np.random.default_rng(seed).random(len(ids)) < .2])
    return own, split.train[~split.train['item'].isin(new)].reset_index(drop=True), split.test, new

class Known:
    "An encoder whose vectors are known already; what it has not read is zero."
    def __init__(self, texts, X): self.rows, self.dim = dict(zip(texts, X)), X.shape[1]
    def encode(self, texts): return np.array([self.rows.get(t, np.zeros(self.dim)) for t in texts], np.float32)

def encoded(work, name, encoder, texts):
    "Vectors of the texts, and processor seconds for a thousand; kept in `work`."
    from llmrec.encode import TextEncoder
    path = Path(work)/f'{name}.{encoder}.vectors.npz'
    if not path.exists():
        enc = TextEncoder(encoder) if encoder == 'tfidf' else TextEncoder(encoder, cache=False, device='cpu', dtype='auto')
        if encoder != 'tfidf': enc.encode(texts[:8])            # loading is not counted
        start = time.process_time()
        X = enc.fit(texts).encode(texts)
        np.savez(path, X=X.astype(np.float16), seconds=1000*(time.process_time() - start)/len(set(texts)))
    found = np.load(path)
    return found['X'].astype(np.float32), float(found['seconds'])

def judged(scores, data, hist, test_items, new):
    "NDCG@10 of each test user: cold items among cold ones, the others among all."
    from llmrec.dataset import next_item_ranks
    from llmrec.metrics import ndcg_of_ranks
    y = data.all_items[0].get_indexer(pd.Index(test_items, dtype=object))
    play = np.isin(data.items, list(new))
    cold = play[y]
    out = np.zeros(len(y))
    from llmrec.dataset import select_users
    for mask, open_items in ((cold, play), (~cold, np.ones(len(play), bool))):
        rows = np.nonzero(mask)[0]
        ranked = lambda h: np.where(open_items[None], scores(h), -1e9)
        if len(rows): out[rows] = ndcg_of_ranks(next_item_ranks(ranked, select_users(hist, rows), y[rows], data.n_target))
    return out, cold

def run(a, name, encoder):
    "Content alone and fusion of one set and encoder."
    from llmrec.baselines import Content
    from llmrec.dataset import histories, make_dataset
    from llmrec.preprocess import item_text
    from llmrec.recommender import Recommender
    domain, train, test, new = load(a.data, name, a.users, a.items)
    texts = list(item_text(domain.items))
    X, seconds = encoded(a.work, name, encoder, texts)
    data = make_dataset(train, domain.items, vectors=X)
    content = Content(np.inf).fit_dataset(data)
    found = {'content': judged(content.score_histories, data, histories(data, test['user']), test['item'], new)}
    began = time.process_time()
    rec = Recommender(Known(texts, X), budget='fast').fit(domain.with_log(train))
    fit = time.process_time() - began
    found['fusion'] = judged(rec.fusion.score_histories, rec.fusion.data, histories(rec.fusion.data, test['user']), test['item'], new)
    for where, (gains, cold) in found.items():
        np.savez(Path(a.work)/f'{name}.{encoder}.{where}.npz', ndcg=gains, cold=cold, seconds=seconds, fit=fit, items=len(texts))
        print(f'{name:10} {encoder:16} {where:8} warm {gains[~cold].mean():.4f} ({(~cold).sum()}) cold {gains[cold].mean():.4f} ({cold.sum()}) '
              f'{seconds:.1f} s, fit {fit:.0f} s', file=sys.stderr, flush=True)

def table(work):
    "One row for each set, encoder, place and question."
    from llmrec.metrics import bootstrap
    rows = []
    for name in SETS:
        for encoder in ENCODERS:
            for where in ('content', 'fusion'):
                path = Path(work)/f'{name}.{encoder}.{where}.npz'
                base = Path(work)/f'{name}.tfidf.{where}.npz'
                if not (path.exists() and base.exists()): continue
                x, b = np.load(path), np.load(base)
                for question, mask in (('warm', ~x['cold']), ('cold', x['cold'])):
                    gap = x['ndcg'][mask] - b['ndcg'][mask]
                    low, high = bootstrap(gap)
                    rows.append(dict(set=name, encoder=encoder, where=where, question=question, users=int(mask.sum()), items=int(x['items']),
                                     ndcg=x['ndcg'][mask].mean(), diff=gap.mean(), diff_low=low[0], diff_high=high[0],
                                     seconds_per_1000=float(x['seconds']), fit_seconds=float(x['fit']) if where == 'fusion' else np.nan))
    return pd.DataFrame(rows)

def write(rows):
    "The file, replaced as a whole; `python bench/common.py --stamps` then stamps it by what git knows of its rows."
    part = OUT.with_suffix('.part')
    rows.to_csv(part, index=False, float_format='%.5g')
    os.replace(part, OUT)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('data', nargs='?', type=Path)
    p.add_argument('--work')
    p.add_argument('--sets', nargs='*', default=list(SETS))
    p.add_argument('--encoders', nargs='*', default=ENCODERS)
    p.add_argument('--users', type=int, default=1500)
    p.add_argument('--items', type=int, default=2500)
    p.add_argument('--show', action='store_true')
    a = p.parse_args()
    warnings.filterwarnings('ignore')
    if a.show:
        print(pd.read_csv(OUT).round(4).to_string(index=False))
        return
    if not (a.data and a.work): p.error('name the folder of the data sets, and --work for results')
    if wrong := set(a.sets) - set(SETS): p.error(f'no set {sorted(wrong)[0]!r}: there are {", ".join(SETS)}')
    import torch
    torch.set_num_threads(1)
    Path(a.work).mkdir(parents=True, exist_ok=True)
    for name in a.sets:
        for encoder in a.encoders:
            if (a.data/SETS[name][0]).is_dir() and not (Path(a.work)/f'{name}.{encoder}.fusion.npz').exists(): run(a, name, encoder)
        write(table(a.work))


if __name__ == '__main__': main()
