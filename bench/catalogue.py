"""What a catalogue that holds only the items of the log gives away: cold figures under both catalogues.

    python bench/catalogue.py [--sets scifi NUTRITION] [--seeds 3] [--share .4] [--full] --out bench/catalogue.csv

A random share of the items lose all their interactions: nobody bought them. What is left is split by items (`split_cold_items`: the test is
of items without training interactions) and ranked twice by the same kinds of models from the same training interactions, all items being
candidates: *of the log*, the item table is cut to what was bought, the test included; *with the unsold*, it holds the others, too. In the
first an item without training interactions must be in the test, and a gate that learns from held-out interactions learns just that.
Systems: popularity, content (TF-IDF of the titles), and a `Recommender` of popularity, content, EASE and kernel transfer (with `--full` the
default experts of `budget='fast'`). NDCG@10; `cold`: items without training and validation interactions in the catalogue; `among`: ranked among
all items, or among those without such interactions only, as in the places that a list keeps for them."""
import argparse, time, warnings
import numpy as np, pandas as pd
from common import commit

RUNS = commit()

def domains(names):
    "Domains by name; both come with the packages."
    from llmrec.pipeline import genre_pair
    from llmrec.readers import load_journey, load_movielens
    known = dict(scifi=lambda: genre_pair(load_movielens(), 'Sci-Fi').target, NUTRITION=lambda: load_journey('FLORAL', 'NUTRITION').target)
    return {name: known[name]() for name in names}

def few(data, budget, seed):
    from llmrec.baselines import Content, Popularity
    from llmrec.closed_form import EASE, KernelTransfer
    return [Popularity(), Content(), EASE(100.), KernelTransfer()]

def systems(train, valid, items, name, seed, full):
    "Fitted systems by name."
    from llmrec.baselines import Content, Popularity
    from llmrec.data import Domain
    from llmrec.recommender import Recommender
    rec = Recommender('tfidf', experts=None if full else few, seed=seed).fit(Domain(name, train, items), valid=valid)
    return dict(popularity=Popularity().fit_dataset(rec.data), content=Content().fit_dataset(rec.data), llmrec=rec)

def one(name, domain, seed, share, full):
    from llmrec.evaluation import evaluate
    from llmrec.preprocess import split_cold_items
    rng = np.random.default_rng(seed)
    unsold = rng.random(len(domain.items)) < share
    log = domain.log[~domain.log['item'].isin(domain.items['item'][unsold])]
    split = split_cold_items(domain.with_log(log), seed=seed)
    tables = {'of the log': domain.items[domain.items['item'].isin(log['item'])], 'with the unsold': domain.items}
    for catalogue, items in tables.items():
        items = items.reset_index(drop=True)
        warm = items['item'].isin(pd.concat([split.train, split.valid])['item'])    # the recommender has seen both
        known = pd.MultiIndex.from_product([split.test['user'].unique(), items['item'][warm]], names=['user', 'item']).to_frame(index=False)
        for system, model in systems(split.train, split.valid, items, name, seed, full).items():
            for among, mask in (('all', None), ('cold', known)):
                report = evaluate(model, split, ks=(10,), items=items, audit=False, slices=(), beyond=False, mask=mask, bar=False)
                yield dict(set=name, seed=seed, catalogue=catalogue, items=len(items), cold=int((~warm).sum()), among=among, system=system,
                           users=len(report.per_user), ndcg=report['ndcg@10'], commit=RUNS)

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--sets', nargs='+', default=['scifi', 'NUTRITION']); p.add_argument('--seeds', type=int, default=3); p.add_argument('--share', type=float, default=.4)
    p.add_argument('--full', action='store_true'); p.add_argument('--out')
    a = p.parse_args()
    warnings.simplefilter('ignore')
    rows = []
    for name, domain in domains(a.sets).items():
        for seed in range(a.seeds):
            t = time.process_time()
            rows += one(name, domain, seed, a.share, a.full)
            table = pd.DataFrame(rows)
            print(table[(table['set'] == name) & (table['seed'] == seed)].round(3).to_string(index=False), f'\n{time.process_time() - t:.0f} s of processor', flush=True)
            if a.out: table.round(5).to_csv(a.out, index=False)
