"""Reading, cleaning, k-core, split and index of a log in the shape of MovieLens-25M, beside a Polars script that does the same.

    pip install polars pyarrow psutil
    python bench/preprocess.py --rows 25000000 --dir DIR      # 0.7 GB of disk; --rows 2500000 for a try
    python bench/preprocess.py --rows 100000 --threads 1 --repeats 5 --ratios bench/ratios.csv    # the row that chapter 59 shows

Each side runs in a process of its own, one after the other; seconds are wall clock and processor time, memory is the high-water mark of the process
(imports included). Both read one CSV of user, item, value, time and a table of items, drop repeated rows, bots and rows outside the
5-core, order each user's rows by time with the same seeded tie-break, hold out the last row for test and the one before for
validation, code users and items by number and store the training histories as one pointer and one item array. Both must agree on
every count and on a checksum of the histories. Threads: `--threads` for Polars (its default is all); ours uses one.
"""
import argparse, json, os, resource, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np
from common import keep_ratios, ratio_row

SHAPE = dict(rows=25_000_095, users=162_541, items=59_047)


def generate(folder, rows, seed=0):
    "Long-tailed users (20 rows at least) and items, half stars, times of 24 years, in blocks; some rows are repeated, one user is a bot."
    import pyarrow as pa, pyarrow.csv as pc
    g, f = np.random.default_rng(seed), rows/SHAPE['rows']
    users, items = max(int(SHAPE['users']*f), 50), max(int(SHAPE['items']*min(1, f**.5)), 50)
    per = np.exp(g.normal(4.2, 1.1, users)); per = np.maximum(20, per*(rows/per.sum())).astype(int); per[0] = max(rows//100, 20_000)
    pop = 1/np.arange(1, items + 1)**.9; cdf = (pop/pop.sum()).cumsum(); ids = g.permutation(items) + 1
    opt = pc.WriteOptions(include_header=True)
    with pc.CSVWriter(folder/'ratings.csv', pa.schema([('user', pa.int64()), ('item', pa.int64()), ('value', pa.float64()), ('time', pa.int64())]), write_options=opt) as w:
        for a in range(0, users, 20_000):
            u = np.repeat(np.arange(a, min(a + 20_000, users)), per[a:a + 20_000])
            i = ids[np.searchsorted(cdf, g.random(len(u))).clip(max=items - 1)]
            t = 789_652_009 + g.integers(0, 785_000_000, users)[u] + g.integers(0, 3600, len(u))*(g.random(len(u)) < .7)
            again = g.random(len(u)) < .002; at = np.where(again & (np.arange(len(u)) > 0), np.arange(len(u)) - 1, np.arange(len(u)))
            w.write_table(pa.table(dict(user=u[at] + 1, item=i[at], value=g.integers(1, 11, len(u))[at]/2, time=t[at])))
    pc.write_csv(pa.table(dict(item=np.arange(1, items + 1), title=[f'Film {i}' for i in range(1, items + 1)])), folder/'items.csv')


class Steps:
    "Seconds and high-water mark after each step."
    def __init__(self): self.t, self.c, self.rows = time.perf_counter(), time.process_time(), []
    def __call__(self, name, n):
        t, c = time.perf_counter(), time.process_time()
        self.rows.append(dict(step=name, rows=int(n), s=round(t - self.t, 2), cpu_s=round(c - self.c, 2), peak_gib=round(peak(), 2))); self.t, self.c = t, c

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20/(1024 if sys.platform == 'darwin' else 1)

def checksum(users, ptr, items, time):
    "One number for the histories, whatever order the users are in, and rows of one second; the rest must be in order."
    u = np.repeat(np.asarray(users, np.uint64), np.diff(ptr)); at = np.asarray(time, np.int64)
    assert ((np.diff(at) >= 0) | (u[1:] != u[:-1])).all()
    with np.errstate(over='ignore'):
        x = u*np.uint64(0x9E3779B97F4A7C15) + np.asarray(items, np.uint64)*np.uint64(0xC2B2AE3D27D4EB4F) + at.astype(np.uint64)*np.uint64(0x165667B19E3779F9)
        return int((x ^ (x >> np.uint64(31))).sum())

def hashed(ids):
    "The tie-break of `sort_log`, seed 0, of distinct ids."
    import pandas as pd
    with np.errstate(over='ignore'): return pd.util.hash_array(np.asarray(ids, dtype=object))*np.uint64(0x9E3779B97F4A7C15)


def ours(folder):
    from llmrec.readers import read_table
    from llmrec.dataset import make_dataset
    from llmrec.preprocess import clean, split_last
    s = Steps()
    d = read_table(folder/'ratings.csv', folder/'items.csv', name='films'); s('read', len(d.log))
    d, report = clean(d, 5, 5); s('clean, 5-core', len(d.log))
    counts = dict(zip(report.step, report.after.astype(int).tolist()))
    split = split_last(d); s('split', len(split.train)); items = d.items; del d
    sizes = [len(split.train), len(split.valid), len(split.test)]
    x = make_dataset(split.train, items); s('index', len(x.hist.item))
    return dict(steps=s.rows, peak_gib=round(peak(), 2), counts=counts, sizes=sizes, checksum=checksum(x.users.to_numpy(), x.hist.ptr, x.items[x.hist.item], x.time))


def polars(folder):
    import polars as pl
    s = Steps()
    log, items = pl.read_csv(folder/'ratings.csv'), pl.read_csv(folder/'items.csv')
    log = log.filter(pl.col('item').is_in(items['item'].implode())); s('read', len(log)); counts = {}
    log = log.unique(['user', 'item', 'time'], keep='first', maintain_order=True); counts['repeated rows'] = len(log)
    n = log.group_by('user').len(); cut = max(50*n['len'].median(), 999.5)
    log = log.join(n.filter(pl.col('len') > cut), on='user', how='anti', maintain_order='left'); counts['bots'] = len(log)
    while True:
        new = log.filter((pl.len().over('user') >= 5) & (pl.len().over('item') >= 5))
        if len(new) == len(log): break
        log = new
    counts['k-core'] = len(log); s('clean, 5-core', len(log))
    ids = log['item'].unique(); tie = pl.DataFrame(dict(item=ids, tie=hashed(ids.to_list())))
    log = log.join(tie, on='item', how='left').sort('user', 'time', 'tie', maintain_order=True)
    left = pl.len().over('user') - 1 - pl.int_range(pl.len()).over('user'); many = pl.len().over('user') >= 3
    log = log.with_columns(part=pl.when(many & (left < 1)).then(2).when(many & (left < 2)).then(1).otherwise(0))
    train, valid, test = (log.filter(pl.col('part') == k) for k in range(3)); s('split', len(train)); del log
    train = train.with_columns(u=pl.col('user').rank('dense') - 1).join(items.with_row_index('i').select('item', 'i'), on='item', how='left', maintain_order='left')
    users = train['user'].unique(maintain_order=True).to_numpy(); ptr = np.r_[0, train.group_by('u', maintain_order=True).len()['len'].to_numpy().cumsum()]
    item = train['i'].to_numpy(); s('index', len(item))
    return dict(steps=s.rows, peak_gib=round(peak(), 2), counts=counts, sizes=[len(train), len(valid), len(test)],
                checksum=checksum(users, ptr.astype(np.int64), items['item'].to_numpy()[item], train['time'].to_numpy()))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rows', type=int, default=SHAPE['rows']); p.add_argument('--dir', default=Path(tempfile.gettempdir())/'llmrec-preprocess', help='folder of the generated log'); p.add_argument('--side', choices=('ours', 'polars'))
    p.add_argument('--threads', type=int); p.add_argument('--repeats', type=int, default=1); p.add_argument('--out'); p.add_argument('--ratios', help='CSV that takes the ratios')
    a = p.parse_args(); folder = Path(a.dir); folder.mkdir(parents=True, exist_ok=True)
    if a.side: print(json.dumps(globals()[a.side](folder))); return
    made = folder/f'{a.rows}.made'
    if not made.exists(): generate(folder, a.rows); [x.unlink() for x in folder.glob('*.made')]; made.touch()
    env, got = dict(os.environ, **({'POLARS_MAX_THREADS': str(a.threads)} if a.threads else {})), {'polars': [], 'ours': []}
    for _ in range(a.repeats):
        for side in got:
            r = subprocess.run([sys.executable, __file__, '--side', side, '--dir', str(folder)], env=env, capture_output=True, text=True)
            if r.returncode: sys.exit(f'{side}: {r.stderr[-3000:]}')
            got[side].append(json.loads(r.stdout.splitlines()[-1]))
    best = {k: min(v, key=lambda x: sum(s['s'] for s in x['steps'])) for k, v in got.items()}
    for k, b in best.items():
        print(f'{k}: {sum(s["s"] for s in b["steps"]):.1f} s, {b["peak_gib"]} GiB')
        for s in b['steps']: print('   ', s)
    o, q = best['ours'], best['polars']
    for k in ('counts', 'sizes', 'checksum'):
        if o[k] != q[k]: print(f'DIFFERENT {k}: {o[k]} {q[k]}')
    total = {k: [sum(s['cpu_s'] for s in x['steps']) for x in v] for k, v in got.items()}
    equal = all(o[k] == q[k] for k in ('counts', 'sizes', 'checksum'))
    keep_ratios([ratio_row('read, clean, split, index', 'Polars', f'{a.rows:,} rows', total['ours'], total['polars'], agree='equal' if equal else 'DIFFERENT')],
                f'python bench/preprocess.py --rows {a.rows} --threads 1 --repeats {a.repeats}', a.ratios)
    ratio, cpu = (sum(s[k] for s in o['steps'])/sum(s[k] for s in q['steps']) for k in ('s', 'cpu_s'))
    print(f'ours / polars: {ratio:.2f} of the time, {cpu:.2f} of the processor time (goal 2), {o["peak_gib"]} GiB (goal 4), results equal: {all(o[k] == q[k] for k in ("counts", "sizes", "checksum"))}')
    if a.out: Path(a.out).write_text(json.dumps(dict(ratio=ratio, cpu_ratio=cpu, **best)))


if __name__ == '__main__': main()
