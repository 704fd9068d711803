"""Shops that the book was not written for: the recommender beside untrained shortcuts, its own experts, itself without text and without source.

    python bench/unseen.py DIR --work RESULTS              # all sets; what is done is not run again
    python bench/unseen.py DIR --work RESULTS --sets tweets lastfm --systems default bar
    python bench/unseen.py --work RESULTS --csv bench/unseen.csv     # the table that 40_results reads

DIR holds the folders that are read, each with `interactions.csv.gz` and `items.csv.gz`. The last interaction of each user is the test, the one
before it validation; `-kN` keeps only the N latest training interactions of each user (those taken away are no candidates for anybody), `-k0` no
interaction of the target at all, for validation neither; a source is cut at each user's held-out interaction where it has times. All items of the
target are ranked, what the user had is masked, equal scores are drawn at random. Every system gets the validation interactions, too. Settings are
found on training and validation interactions; parts of the gate (its focus, its lift of rare items, which experts are too light, how new items are
learned and raised, how many items regressions learn from) and the networks that are tried were chosen with test users of some sets in view: `chosen_on`.

Ours: `default` settings; these without the source's interactions, and without words (`no source`, `no text`); `fast`, without a network; every expert
of `default`. The bar: popularity; the graph of the last two items with TF-IDF, and EASE with TF-IDF, each with its own settings and one weight from the last
interactions of training and validation; without any (`-k0`) TF-IDF alone. Seconds are processor seconds of this process, fit alone, with texts
already encoded.
"""
import argparse, time, warnings
from pathlib import Path
import pandas as pd
from common import BUCKETS, CHOSEN_ON, NAMES, Results, bare, judge_by, load, timed, versus, write

SYSTEMS = ('bar', 'default', 'experts', 'no source', 'no text', 'fast')

def run(root, name, systems, results, users):
    "All systems of one set that are not done."
    from llmrec.recommender import Recommender
    target, split, source, gone = load(root, name, users)
    judge = judge_by(target, split, gone)
    train = target.with_log(split.train)
    variants = {'default': ({}, train, source), 'no source': ({}, train, None),
                'no text': (dict(encoder=None), bare(train), source and bare(source)), 'fast': (dict(budget='fast'), train, source)}
    for system, (how, domain, other) in variants.items():
        if system not in systems or results.has(name, system) or system == 'no source' and (source is None or not len(split.train)): continue
        rec, seconds = timed(lambda: Recommender(**{'encoder': 'minilm'} | how).fit(domain, other, split.valid))
        began = time.process_time()
        report = judge(rec)
        results.add(name, system, report, seconds, score_seconds=time.process_time() - began, plan=rec.plan,
                    users=len(report.per_user), items=len(rec.items))
        if system == 'default' and 'experts' in systems:
            for label, expert in zip(rec.summary().columns, rec.experts): results.add(name, f'· {label}', judge(expert), None, settings=repr(expert))
    if 'bar' not in systems: return
    from llmrec.baselines import Tfidf
    from llmrec.dataset import make_dataset
    from llmrec.shortcuts import shortcut_experts
    data = make_dataset(pd.concat([split.train, split.valid]), target.items, source)
    for system, fit in (shortcut_experts() if len(split.train) else {'TF-IDF': Tfidf().fit_dataset}).items():
        if results.has(name, system): continue
        expert, seconds = timed(lambda: fit(data))
        results.add(name, system, judge(expert), seconds)

SHORTCUTS = ('popularity', 'last two items + TF-IDF', 'EASE + TF-IDF', 'TF-IDF')

def table(results):
    "One row for each set and system; differences of `default`, and of `fast`, and this system, paired by user."
    found = results.read()
    rows = []
    for name in dict.fromkeys(x['row']['set'] for x in found):
        of = {x['row']['system']: x for x in found if x['row']['set'] == name}
        for system, x in of.items():
            row = {k: v for k, v in x['row'].items() if k not in ('plan', 'settings')}
            for ours in ('fast', 'default'):
                if ours not in of or system == ours: continue
                gain, low, high = versus(pd.Series(of[ours]['values'], of[ours]['users']), pd.Series(x['values'], x['users']))
                row |= {f'{ours} minus': gain, f'{ours} lo': low, f'{ours} hi': high}
            rows.append(row | dict(shortcut=system in SHORTCUTS, expert=system.startswith('·'), chosen_on=name.partition('-k')[0] in CHOSEN_ON))
    return pd.DataFrame(rows)

def show(table):
    "The table by set, the best first."
    for name, rows in table.groupby('set', sort=False):
        print(f'\n== {name}: test items by interactions', [int(rows[f'n [{b}]'].max()) for b in BUCKETS])
        columns = ['system', 'ndcg', 'recall', *[f'recall [{b}]' for b in BUCKETS], 'seconds', 'default minus', 'default lo', 'default hi']
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
    if a.csv: write(rows, a.csv)

if __name__ == '__main__': main()
