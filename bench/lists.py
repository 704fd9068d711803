"""Memory and time of `llmrec recommend --all` on a generated log: python bench/lists.py [users] [items] [rows a user] [folder] [stop].

The model is made once and kept in the folder. With `stop`, seconds, the command is first killed that long after its start and then begun
again with the same line: the second run makes what is missing, and its file is compared with that of a run that nobody disturbed."""
import hashlib, json, os, signal, subprocess, sys, tempfile, time
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

RUN = ("import sys, time; from llmrec.cli import main; began = time.perf_counter(); code = main(sys.argv[1:]);"
       "peak = [x.split()[1] for x in open('/proc/self/status') if x.startswith('VmHWM')][0];"
       "print('MEASURED', time.perf_counter() - began, int(peak)/1024, time.process_time(), code)")

def command(folder, out):
    return [sys.executable, '-c', RUN, 'recommend', '--model', str(folder), '--all', '--out', str(out)]

def ask(folder, out):
    "Seconds and peak memory (MiB) of the command in a process of its own."
    done = subprocess.run(command(folder, out), capture_output=True, text=True)
    line = [x for x in done.stdout.splitlines() if x.startswith('MEASURED')]
    if not line: raise SystemExit(done.stderr[-2000:])
    seconds, peak, cpu, code = map(float, line[0].split()[1:])
    return dict(seconds=round(seconds), cpu_seconds=round(cpu), peak_mib=round(peak), code=int(code))

def killed(folder, out, seconds):
    "Start the command and kill it after so many seconds; parts of the file that are there then."
    process = subprocess.Popen(command(folder, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return len(list(out.with_name(f'.{out.name}.parts').glob('0*')))

def summary(out):
    lists = pd.read_parquet(out, columns=['user'])
    return dict(users=int(lists['user'].nunique()), rows=len(lists), mib=round(out.stat().st_size/2**20))

def digest(out): return hashlib.sha256(out.read_bytes()).hexdigest()

if __name__ == '__main__':
    users, items, rows = (int(x) for x in (sys.argv[1:4] + ['1000000', '2000', '5'][len(sys.argv[1:4]):]))
    folder = Path(sys.argv[4] if len(sys.argv) > 4 else tempfile.mkdtemp())
    print(f'load {os.getloadavg()[0]:.1f} of {os.cpu_count()} processors', flush=True)
    if not (folder/'m'/'model.json').exists():
        began = time.process_time()
        model(users, items, rows, folder/'m')
        print(f'model of {users:,} users, {items:,} items: {time.process_time() - began:.0f} s of CPU', flush=True)
    found = ask(folder/'m', folder/'recs.parquet')
    print(json.dumps(summary(folder/'recs.parquet') | found), flush=True)
    if len(sys.argv) > 5:
        again = folder/'again.parquet'
        parts = killed(folder/'m', again, float(sys.argv[5]))
        found = ask(folder/'m', again)
        same = digest(again) == digest(folder/'recs.parquet')
        print(f'killed after {sys.argv[5]} s with {parts} parts; begun again:', json.dumps(summary(again) | found), 'the same file' if same else 'ANOTHER FILE')
        sys.exit(not same)
