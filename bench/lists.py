"""Memory and time of `llmrec recommend --all` on a generated log: python bench/lists.py [users] [items] [rows a user] [folder]."""
import json, resource, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np, pandas as pd

def model(users, items, rows, folder):
    "A recommender of popularity and EASE over a log of so many users, saved."
    from llmrec.baselines import Popularity
    from llmrec.closed_form import EASE
    from llmrec.data import Domain
    from llmrec.recommender import Recommender
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(users), rows)
    item = np.minimum((rng.pareto(1.2, len(user))*20).astype(int), items - 1)
    log = pd.DataFrame(dict(user=user, item=item, time=np.tile(np.arange(rows), users))).drop_duplicates(['user', 'item'])
    table = pd.DataFrame(dict(item=np.arange(items), title=[f'item {i}' for i in range(items)]))
    Recommender(None, experts=lambda *_: [Popularity(), EASE(100.)]).fit(Domain('generated', log, table)).save(folder)

def ask(folder, out):
    "Seconds and peak memory (MiB) of the command in a process of its own."
    run = ("import resource, sys, time; from llmrec.cli import main; began = time.perf_counter(); code = main(sys.argv[1:]);"
           "print('MEASURED', time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024, time.process_time(), code)")
    done = subprocess.run([sys.executable, '-c', run, 'recommend', '--model', str(folder), '--all', '--out', str(out)], capture_output=True, text=True)
    line = [x for x in done.stdout.splitlines() if x.startswith('MEASURED')]
    if not line: raise SystemExit(done.stderr[-2000:])
    seconds, peak, cpu, code = map(float, line[0].split()[1:])
    return dict(seconds=round(seconds), cpu_seconds=round(cpu), peak_mib=round(peak), code=int(code))

if __name__ == '__main__':
    users, items, rows = (int(x) for x in (sys.argv[1:4] + ['1000000', '2000', '5'][len(sys.argv[1:4]):]))
    folder = Path(sys.argv[4] if len(sys.argv) > 4 else tempfile.mkdtemp())
    if not (folder/'m'/'model.json').exists():
        began = time.process_time()
        model(users, items, rows, folder/'m')
        print(f'model of {users:,} users, {items:,} items: {time.process_time() - began:.0f} s of CPU, '
              f'{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024:.0f} MiB at most', flush=True)
    found = ask(folder/'m', folder/'recs.parquet')
    lists = pd.read_parquet(folder/'recs.parquet', columns=['user'])
    print(json.dumps(dict(users=int(lists['user'].nunique()), rows=len(lists), mib=round((folder/'recs.parquet').stat().st_size/2**20), **found)))
