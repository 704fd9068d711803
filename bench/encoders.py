"""Texts alone: which encoder, prompt and columns bring the hidden interaction to the top, and what a thousand texts cost.

    python bench/encoders.py DIR                             # every set below that DIR holds; writes bench/encoders.csv
    python bench/encoders.py DIR --sets lastfm food --users 500 --items 1500
    python bench/encoders.py --show                          # the table, a line per set and way

Resumable: a set that is in the file is not run again; the file is replaced as a whole after each set. A way is an encoder, one of its
prompts, and the columns it reads. *warm*: NDCG@10 of each user's last interaction among all sampled items; *cold*: of the last one with
an item that plays new, among those. Profiles are means of whitened vectors (0.25), so nothing is learned and nothing tuned: these rows
may be read as a test. Seconds are wall time of one process on one thread without any cache; differences are to the best way, paired by user.
"""
import argparse, os, sys, time
from pathlib import Path
import pandas as pd

OUT = Path(__file__).parent/'encoders.csv'
SETS = {'food': ('amazon_food_kitchen_LLMCDSR', 'food'), 'kitchen': ('amazon_food_kitchen_LLMCDSR', 'kitchen'),
        'beauty': ('amazon_beauty_toys_2014', 'beauty'), 'toys': ('amazon_beauty_toys_2014', 'toys'), 'lastfm': ('lastfm_hetrec2011', None),
        'microlens': ('microlens_50k_DEALRec', None), 'tweets': ('movietweetings_100k', None), 'retail': ('online_retail_uci_CRAN', None)}

def load(root, folder, name):
    "One domain of a folder."
    from llmrec.data import Domain
    log, items = (pd.read_csv(Path(root)/folder/f'{x}.csv.gz') for x in ('interactions', 'items'))
    if name: log, items = log[log['domain'] == name], items[items['domain'] == name].drop(columns='domain')
    if 'timestamp' in log: log = log.drop(columns='order', errors='ignore')
    log = log.rename(columns=dict(user_id='user', item_id='item', timestamp='time', order='time'))
    items = items.rename(columns=dict(item_id='item', genres='category')).drop_duplicates('item')
    return Domain(name or folder, log[['user', 'item', 'time']], items[[c for c in ('item', 'title', 'category', 'text', 'brand') if c in items]])

def ways(names):
    "Encoders without a cache, so that every run pays."
    from llmrec.encode import TextEncoder
    return {n: TextEncoder(n) if n == 'tfidf' else TextEncoder(n, cache=False, device='cpu') for n in names}

def write(table):
    part = OUT.with_suffix('.part')
    table.to_csv(part, index=False, float_format='%.5g')
    os.replace(part, OUT)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('data', nargs='?')
    p.add_argument('--sets', nargs='*', default=list(SETS))
    p.add_argument('--encoders', nargs='*')
    p.add_argument('--users', type=int, default=2000)
    p.add_argument('--items', type=int, default=4000)
    p.add_argument('--show', action='store_true')
    a = p.parse_args()
    done = pd.read_csv(OUT) if OUT.exists() else pd.DataFrame(columns=['set'])
    if a.show:
        print(done.round(4).to_string(index=False))
        return
    if not a.data: p.error('name the folder of the data sets')
    if wrong := set(a.sets) - set(SETS): p.error(f'no set {sorted(wrong)[0]!r}: there are {", ".join(SETS)}')
    from llmrec.encoder_choice import choose_encoder, default_encoders
    for name in a.sets:
        folder, domain = SETS[name]
        if name in set(done['set']) or not (Path(a.data)/folder).is_dir(): continue
        start = time.time()
        choice = choose_encoder(load(a.data, folder, domain), ways(a.encoders or default_encoders()), dims=(), whitenings=(.25,), n_users=a.users, n_items=a.items)
        table = choice.table.drop(columns=['dim', 'whitening'])
        table.insert(0, 'set', name)
        done = pd.concat([done, table.assign(users=a.users, items=a.items)], ignore_index=True)
        write(done)
        print(f'{name}: {time.time() - start:.0f} s; {choice.why}', file=sys.stderr, flush=True)


if __name__ == '__main__': main()
