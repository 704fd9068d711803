"""A stopwatch for a new user: from an empty environment to a list that a service answers, with two awkward files.

    python bench/fresh.py [--pip "torch==2.13.0"] [--extras minilm,serve] [--nobody 40] [--cancelled 40] [--dir DIR]

Steps: `python -m venv`, `pip install -c constraints.txt` of this checkout, `llmrec run` on the files, `llmrec serve`, one list over HTTP.
The files are those of two shops that never heard of this package. The target is a shop with orders and articles: semicolons, columns with
names of its own, dates with the day first, prices with decimal commas, titles in cp1252, article numbers padded with zeros in one of the two
files, `--nobody` rows without a customer, `--cancelled` orders that were sent back (a negative quantity). The source is one flat file of a
French shop, without a catalogue: titles in each row, Latin-1, other names, a title line above the header, days and months in words.
Each step prints its seconds of wall time and of processor time; the last line is their sum. With `--dir`, an environment that is there is
used again; `--no-source` leaves the second shop out."""
import argparse, csv, json, os, random, re, resource, subprocess, sys, tempfile, time, urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORDS = dict(colour='red blue green black white amber'.split(), what='kettle lamp teapot candle blanket basket mirror clock tray vase'.split(),
             style='vintage modern paisley striped rétro plain décor'.split())
MONTHS = 'janvier février mars avril mai juin juillet août septembre octobre novembre décembre'.split()


def shop(folder, nobody, cancelled, dates, users=400, seed=0):
    "Two files: every customer has a favourite kind of thing, and orders mostly that."
    rng = random.Random(seed)
    kinds = [(c, w, s) for w in WORDS['what'] for s in WORDS['style'] for c in WORDS['colour']]
    articles = [(f'{20_000 + i:010}', f'{c} {w}, {s}'.upper(), w, f'{rng.uniform(1, 40):.2f}'.replace('.', ',')) for i, (c, w, s) in enumerate(kinds)]
    rows = []
    for user in range(users):
        like = rng.choice(WORDS['what']), rng.choice(WORDS['style'])
        for _ in range(rng.randint(3, 14)):
            pool = [a for a, k in zip(articles, kinds) if k[1] == like[0] or k[2] == like[1]] if rng.random() < .8 else articles
            rows.append([f'{536_000 + len(rows)}', int(rng.choice(pool)[0]), rng.randint(1, 6), time.gmtime(1_480_000_000 + rng.randint(0, 31_000_000)), 12_000 + user])
    back = [[f'C{r[0]}', r[1], -r[2], time.gmtime(time.mktime(r[3]) + 90_000), r[4]] for r in rng.sample(rows, cancelled)]
    lost = [[*r[:4], ''] for r in rng.sample(rows, nobody)]
    rows = [[*r[:3], time.strftime(dates, r[3]), r[4]] for r in rng.sample(rows + back + lost, len(rows + back + lost))]
    for name, head, table in (('orders.csv', 'InvoiceNo StockCode Quantity InvoiceDate CustomerID', rows), ('articles.csv', 'StockCode Description Group UnitPrice', articles)):
        with open(folder/name, 'w', newline='', encoding='cp1252') as f: csv.writer(f, delimiter=';').writerows([head.split(), *table])


def second_shop(folder, users=300, seed=1):
    "One flat file, without a catalogue: the same kinds of things, other people, other names."
    rng = random.Random(seed)
    kinds = [(c, w, s) for w in WORDS['what'] for s in WORDS['style'] for c in WORDS['colour']]
    rows = []
    for user in range(users):
        like = rng.choice(WORDS['what']), rng.choice(WORDS['style'])
        for _ in range(rng.randint(4, 16)):
            n = rng.choice([i for i, k in enumerate(kinds) if k[1] == like[0] or k[2] == like[1]] if rng.random() < .8 else range(len(kinds)))
            when = time.gmtime(1_480_000_000 + rng.randint(0, 31_000_000))
            day = f'{when.tm_mday} {MONTHS[when.tm_mon - 1]} {when.tm_year}'
            rows.append([f'CL-{user:04}', f'P{n}', ' '.join(kinds[n]).title(), day, f'{rng.uniform(1, 40):.2f} €'.replace('.', ',').replace(' €', '')])
    with open(folder/'ventes.csv', 'w', newline='', encoding='latin-1') as f:
        f.write('Ventes par client, export du 3 janvier 2018\r\n')
        csv.writer(f, delimiter=';').writerows([['Client', 'Réf', 'Libellé', 'Jour', 'Prix'], *rows])


def clock(name, f):
    "Run a step; its seconds of wall and processor time."
    def used(): return sum(sum(resource.getrusage(w)[:2]) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    t, c = time.perf_counter(), used()
    out = f()
    row = time.perf_counter() - t, used() - c
    print(f'{name:42} {row[0]:8.1f} s   processor {row[1]:7.1f} s', flush=True)
    return row, out


def served(exe, folder):
    "Start the service and ask it for a list; the service ends with this."
    user = next(csv.DictReader(open(folder/'orders.csv'), delimiter=';'))['CustomerID'] or '12000'
    p = subprocess.Popen([exe, 'serve', '--port', '0'], cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        url = re.search(r'http://[\d.]+:\d+', p.stdout.readline())[0]
        return json.load(urllib.request.urlopen(f'{url}/recommend?user={user}&k=5&why=true'))
    finally: p.send_signal(2); p.wait()


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--pip', default='', help='further requirements'); p.add_argument('--extras', default='minilm,serve'); p.add_argument('--dir')
    p.add_argument('--nobody', type=int, default=40); p.add_argument('--cancelled', type=int, default=40); p.add_argument('--options', default='', help='of llmrec run')
    p.add_argument('--dates', default='%d.%m.%Y %H:%M', help='format of the dates'); p.add_argument('--no-source', action='store_true')
    a = p.parse_args()
    folder = Path(a.dir or tempfile.mkdtemp(prefix='fresh-')); folder.mkdir(exist_ok=True)
    env, rows = folder/'env', []
    shop(folder, a.nobody, a.cancelled, a.dates)
    second_shop(folder)
    def go(*c):
        r = subprocess.run(c, cwd=folder, env=os.environ | dict(LLMREC_CACHE=str(folder/'cache'), PYTHONPATH=''), stdout=subprocess.DEVNULL)
        if r.returncode: sys.exit(f'{" ".join(c[:2])}: exit code {r.returncode}')
    if not (env/'bin'/'llmrec').exists():
        rows.append(clock('python -m venv env', lambda: go(sys.executable, '-m', 'venv', str(env)))[0])
        rows.append(clock(f'pip install .[{a.extras}]', lambda: go(str(env/'bin'/'pip'), 'install', '-q', '-c', str(ROOT/'constraints.txt'), *a.pip.split(), f'{ROOT}[{a.extras}]'))[0])
    exe = str(env/'bin'/'llmrec')
    names = 'user=CustomerID,item=StockCode,time=InvoiceDate,title=Description,category=Group,price=UnitPrice'
    files = ['--target-log', 'orders.csv', '--target-items', 'articles.csv', '--encoding', 'cp1252']
    if not a.no_source:
        files += ['--source-log', 'ventes.csv']
        names += ',source.user=Client,source.item=Réf,source.title=Libellé,source.time=Jour,source.price=Prix'
    rows.append(clock('llmrec run', lambda: go(exe, 'run', *files, '--columns', names, *a.options.split()))[0])
    row, answer = clock('llmrec serve, one list', lambda: served(exe, folder))
    rows.append(row)
    print(f'{"together":42} {sum(r[0] for r in rows):8.1f} s   processor {sum(r[1] for r in rows):7.1f} s')
    for x in answer['items']: print(f"{x['rank']}. {x['title']}: {x['reason']}")


if __name__ == '__main__': main()
