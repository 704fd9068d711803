"""Shops that the book was not written for: the recommender beside untrained shortcuts, its own experts, itself without text and without source.

    python bench/unseen.py DIR --work RESULTS              # all sets; what is done is not run again
    python bench/unseen.py DIR --work RESULTS --sets tweets lastfm --systems fast bar
    python bench/unseen.py --work RESULTS --csv bench/unseen.csv     # the table that 40_results reads

DIR holds the folders that are read, each with `interactions.csv.gz` and `items.csv.gz`. The last interaction of each user is the test, the one
before it validation; `-kN` keeps only the N latest training interactions of each user (those taken away are no candidates for anybody); a source is
cut at each user's held-out interaction where it has times. All items of the target are ranked, what the user had is masked, equal scores are drawn
at random. Every system gets the validation interactions, too. Settings are found on training and validation interactions; two constants of the gate
(its focus and its lift of rare items) were chosen with the test users of four sets in view: column `chosen_on`.

The bar: popularity; the graph of the last two items with TF-IDF, and EASE with TF-IDF, each with its own settings and one weight from the last
interactions of training and validation. Seconds are processor seconds of this process, fit alone.
"""
import argparse, json, os, time, warnings
from pathlib import Path
import numpy as np, pandas as pd

BUCKETS = ('0', '1–4', '5–19', '20+')
SYSTEMS = ('bar', 'fast', 'no source', 'no text', 'default', 'experts')

def read(folder, domain=None, time='order'):
    "A data set, or one domain of it."
    from llmrec.data import Domain
    log, items = (pd.read_csv(folder/f'{name}.csv.gz') for name in ('interactions', 'items'))
    if domain: log, items = log[log['domain'] == domain], items[items['domain'] == domain]
    if log[time].isna().any(): log = log.assign(**{time: log[time].fillna(log['order']*86400)})
    log = log.rename(columns=dict(user_id='user', item_id='item')).assign(time=log[time])
    log = log[['user', 'item', 'time']].drop_duplicates(['user', 'item'])
    items = items.rename(columns=dict(item_id='item', genres='category')).assign(
        title=lambda x: x['title'].fillna('') if 'title' in x else '')
    kept = [c for c in ('item', 'title', 'category', 'text') if c in items and items[c].notna().any()]
    return Domain(domain or folder.name, log, items[kept])

def invoices(folder):
    "A shop whose customers buy baskets: the last invoice is one test interaction, drawn at random."
    shop = read(folder, time='timestamp')
    log = shop.log.sample(frac=1, random_state=0).sort_values(['user', 'time'], kind='stable')
    return shop.with_log(log.drop_duplicates(['user', 'item']))

def sets(root):
    "Name to a function that gives target, source or None, and whether the source has times."
    four, pair = root/'amazon_4domains_shared_2014', root/'amazon_beauty_toys_2014'
    food = root/'amazon_food_kitchen_LLMCDSR'
    def of(folder, target, source, time='order'):
        return lambda: (read(folder, target, time), source and read(folder, source, time), time == 'timestamp')
    found = {'beauty': of(pair, 'beauty', None), 'toys': of(pair, 'toys', None),
             'beauty<toys': of(pair, 'beauty', 'toys'), 'food<kitchen': of(food, 'food', 'kitchen'),
             'beauty<kitchen': of(four, 'beauty', 'kitchen', 'timestamp'),
             'food4<kitchen': of(four, 'food', 'kitchen', 'timestamp'),
             'tweets': lambda: (read(root/'movietweetings_100k', time='timestamp'), None, False),
             'lastfm': lambda: (read(root/'lastfm_hetrec2011'), None, False),
             'microlens': lambda: (read(root/'microlens_50k_DEALRec'), None, False),
             'retail': lambda: (invoices(root/'online_retail_uci_CRAN'), None, False)}
    return found

NAMES = ('beauty<kitchen-k1', 'food4<kitchen-k2', 'tweets', 'lastfm', 'beauty<kitchen', 'food<kitchen', 'food4<kitchen-k1',
         'beauty<kitchen-k2', 'food4<kitchen-k5', 'retail', 'beauty', 'toys', 'beauty<toys', 'microlens')

def load(root, name, users, seed=0):
    "Target, split, source, interactions taken away."
    from llmrec.preprocess import Split, split_last, truncate_source
    base, _, k = name.partition('-k')
    target, source, timed = sets(root)[base]()
    split = split_last(target)
    train = split.train
    if k: train = train[train.groupby('user').cumcount(ascending=False) < int(k)]
    gone = split.train.drop(train.index)
    if source is not None and timed: source = truncate_source(source, split)
    everybody = np.sort(split.test['user'].unique())
    kept = set(np.random.default_rng(seed).permutation(everybody)[:users])
    test = split.test[split.test['user'].isin(kept)]
    protocol = split.protocol | dict(users=users) | (dict(k=int(k)) if k else {})
    return target, Split(train.reset_index(drop=True), split.valid, test, protocol), source, gone if k else None

def bar(data):
    "Shortcuts that a claim has to pass, unfitted."
    from llmrec.baselines import LastItems, Popularity, Tfidf
    from llmrec.closed_form import Blend, EASE
    from llmrec.expert import fit_itself
    ease = EASE(max_items=8000, n_neighbours=0)
    ease.grid = dict(lam=(10., 50., 200., 1000., 4000.))
    graph = LastItems(2)
    graph.grid = dict(half_life=(.5, 1., 3.))
    shortcuts = {'popularity': lambda: Popularity()}
    for name, expert in (('last two items + TF-IDF', graph), ('EASE + TF-IDF', ease)):
        shortcuts[name] = lambda expert=expert: Blend(fit_itself(expert, data), Tfidf())
    return shortcuts

class Results:
    "What is done, in a folder: one row and the users' values for each set and system."
    def __init__(self, work):
        self.work = Path(work)
        self.work.mkdir(parents=True, exist_ok=True)
    def path(self, name, system): return self.work/f'{name}.{system}.json'.replace('<', '_from_').replace(' ', '_')
    def has(self, name, system): return self.path(name, system).exists()
    def add(self, name, system, report, seconds, **more):
        cells = report.slices[(report.slices['user'] == 'all') & (report.slices['item'] != 'all')].set_index('item')
        row = dict(set=name, system=system, ndcg=report['ndcg@10'], recall=report['recall@10'], seconds=seconds,
                   **{f'recall [{b}]': cells['recall@10'].get(b) for b in BUCKETS},
                   **{f'n [{b}]': int(cells['rows'].get(b, 0)) for b in BUCKETS}, **more)
        values = report.per_user['ndcg@10']
        out = dict(row=row, users=[str(u) for u in values.index], values=[round(float(v), 6) for v in values])
        temporary = self.path(name, system).with_suffix('.tmp')
        temporary.write_text(json.dumps(out, default=float))
        os.replace(temporary, self.path(name, system))
        cell = [row[f'recall [{b}]'] for b in BUCKETS]
        cell = ' '.join('  –  ' if x is None else f'{x:.3f}' for x in cell)
        cost = '' if seconds is None else f' | {seconds:.0f} s'
        print(f'{name:18} {system:28} {row["ndcg"]:.4f} {row["recall"]:.4f} | {cell}{cost}', flush=True)
    def read(self): return [json.loads(path.read_text()) for path in sorted(self.work.glob('*.json'))]

def timed(work):
    "What a function gives, and its processor seconds."
    began = time.process_time()
    return work(), time.process_time() - began

def run(root, name, systems, results, users):
    "All systems of one set that are not done."
    from llmrec.evaluation import evaluate
    from llmrec.recommender import Recommender
    target, split, source, gone = load(root, name, users)
    def judge(model): return evaluate(model, split, ks=(10,), items=target.items, audit=False, beyond=False,
                                      evidence='train+valid', n_boot=0, mask=gone)
    train = target.with_log(split.train)
    plain = target.with_log(split.train)
    plain.items = plain.items[['item']].assign(title='x')
    variants = {'fast': (dict(budget='fast'), train, source), 'no source': (dict(budget='fast'), train, None),
                'no text': (dict(budget='fast', encoder=None), plain, source and bare(source)), 'default': ({}, train, source)}
    for system, (how, domain, other) in variants.items():
        if system not in systems or results.has(name, system) or system == 'no source' and source is None: continue
        rec, seconds = timed(lambda: Recommender(**{'encoder': 'minilm'} | how).fit(domain, other, split.valid))
        began = time.process_time()
        report = judge(rec)
        results.add(name, system, report, seconds, score_seconds=time.process_time() - began, plan=rec.plan,
                    users=len(report.per_user), items=len(rec.items))
        if system == 'fast' and 'experts' in systems:
            for label, expert in zip(rec.summary().columns, rec.experts): results.add(name, f'· {label}', judge(expert), None, settings=repr(expert))
    if 'bar' not in systems: return
    from llmrec.dataset import make_dataset
    data = make_dataset(pd.concat([split.train, split.valid]), target.items, source)
    for system, make in bar(data).items():
        if results.has(name, system): continue
        expert, seconds = timed(lambda: make().fit_dataset(data))
        results.add(name, system, judge(expert), seconds)

def bare(source):
    "A source without words."
    source = source.with_log(source.log)
    source.items = source.items[['item']].assign(title='x')
    return source

CHOSEN_ON = ('beauty<kitchen-k1', 'food4<kitchen-k2', 'tweets', 'lastfm')   # the gate's two constants were chosen with these sets in view
SHORTCUTS = ('popularity', 'last two items + TF-IDF', 'EASE + TF-IDF')

def table(results):
    "One row for each set and system; differences of `default` (or `fast`) and this system, paired by user."
    from llmrec.metrics import paired_interval
    found = results.read()
    rows = []
    for name in dict.fromkeys(x['row']['set'] for x in found):
        of = {x['row']['system']: x for x in found if x['row']['set'] == name}
        for system, x in of.items():
            row = {k: v for k, v in x['row'].items() if k not in ('plan', 'settings')}
            for ours in ('fast', 'default'):
                if ours not in of or system == ours: continue
                mine = pd.Series(of[ours]['values'], of[ours]['users'])
                gain = (mine - pd.Series(x['values'], x['users']).reindex(mine.index)).to_numpy()
                low, high = paired_interval(gain)[:2]
                row |= {f'{ours} minus': gain.mean(), f'{ours} lo': low, f'{ours} hi': high}
            rows.append(row | dict(shortcut=system in SHORTCUTS, expert=system.startswith('·'), chosen_on=name in CHOSEN_ON))
    return pd.DataFrame(rows)

def show(table):
    "The table by set, the best first."
    for name, rows in table.groupby('set', sort=False):
        print(f'\n== {name}: test items by interactions', [int(rows[f'n [{b}]'].max()) for b in BUCKETS])
        columns = ['system', 'ndcg', 'recall', *[f'recall [{b}]' for b in BUCKETS], 'seconds', 'fast minus', 'fast lo', 'fast hi']
        print(rows.sort_values('ndcg', ascending=False)[[c for c in columns if c in rows]].round(4).to_string(index=False))

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', nargs='?', type=Path)
    parser.add_argument('--work', required=True)
    parser.add_argument('--sets', nargs='*', default=NAMES)
    parser.add_argument('--systems', nargs='*', default=SYSTEMS, choices=SYSTEMS)
    parser.add_argument('--users', type=int, default=2000)
    parser.add_argument('--csv')
    a = parser.parse_args()
    warnings.filterwarnings('ignore')
    results = Results(a.work)
    if a.data:
        for name in a.sets: run(a.data, name, a.systems, results, a.users)
    rows = table(results)
    show(rows)
    if a.csv: rows.to_csv(a.csv, index=False, float_format='%.5g')

if __name__ == '__main__': main()
