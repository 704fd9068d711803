"""Many readers at once while feedback is written: is any answer wrong, and how long do they wait?

    python bench/serve.py [--model DIR] [--readers 50] [--seconds 20] [--writes 10]

DIR is a saved model; without one, a closed-form recommender of MovieLens science fiction is fitted. `llmrec serve` runs in a process of its
own. Each reader asks for ten items of a random user over its own connection, and again as soon as it is answered; one writer sends
`--writes` pieces of feedback a second, an item of the writer's own list each time. Wrong is: an answer that is not what its version of the
model gives (every version is made anew here, by `Recommender.update`, from the feedback in its order; scores within 1e-3); a version older
than feedback that was acknowledged before the question; an item that its user had just taken; any status but 200. Exit code 1 if any is."""
import argparse, asyncio, json, os, re, subprocess, sys, tempfile, time
os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np, pandas as pd
from llmrec.recommender import Recommender

CODE = 'import sys; from llmrec.cli import main; sys.exit(main(sys.argv[1:]))'


def fitted(folder):
    "A model to serve, saved into a folder."
    from llmrec.pipeline import load_pair
    source, target = load_pair('movielens', target='Sci-Fi')
    Recommender('tfidf', budget='fast').fit(target, source).save(folder)
    return folder


class Client:
    "One connection that stays open."
    def __init__(self, port): self.port, self.reader = port, None
    async def post(self, path, body):
        if self.reader is None: self.reader, self.writer = await asyncio.open_connection('127.0.0.1', self.port)
        content = json.dumps(body).encode()
        self.writer.write(f'POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n'
                          f'Content-Length: {len(content)}\r\n\r\n'.encode() + content)
        head = (await self.reader.readuntil(b'\r\n\r\n')).decode()
        length = int(re.search(r'content-length: (\d+)', head, re.I)[1])
        return int(head.split()[1]), json.loads(await self.reader.readexactly(length))


class Load:
    "Readers, a writer, and what they saw."
    def __init__(self, port, users, seconds, writes):
        self.port, self.users, self.writes = port, users, writes
        self.end = time.perf_counter() + seconds
        self.version, self.reads, self.written, self.wrong = 0, [], [], []
    async def read(self, seed):
        rng, client = np.random.default_rng(seed), Client(self.port)
        while time.perf_counter() < self.end:
            user, known, t = self.users[rng.integers(len(self.users))], self.version, time.perf_counter()
            status, a = await client.post('/recommend', dict(user=user, k=10))
            self.reads.append((time.perf_counter() - t, user, status, a))
            if status != 200 or a['version'] < known: self.wrong.append(('status or version', user, status, known))
    async def write(self):
        client, turn = Client(self.port), 0
        while time.perf_counter() < self.end:
            user = self.users[turn % len(self.users)]
            turn += 1
            _, a = await client.post('/recommend', dict(user=user, k=1))
            t = time.perf_counter()
            if not a.get('items'): continue
            item = a['items'][0]['item']
            status, done = await client.post('/feedback', dict(events=[dict(user=user, item=item)]))
            self.written.append((time.perf_counter() - t, user, item, done.get('version')))
            if status != 200: self.wrong.append(('feedback', user, status, done)); continue
            self.version = done['version']
            _, a = await client.post('/recommend', dict(user=user, k=10))
            if item in [x['item'] for x in a['items']]: self.wrong.append(('taken and shown', user, item, a))
            await asyncio.sleep(max(0, 1/self.writes - (time.perf_counter() - t)))
    async def run(self, readers, writers=1):
        await asyncio.gather(*(self.read(i) for i in range(readers)), *(self.write() for _ in range(writers)))


def check(rec, load):
    "Compare every answer with what its version of the model gives; how many were compared."
    log = pd.DataFrame([w[1:] for w in load.written], columns=['user', 'item', 'version'])
    asked = {}
    for _, user, status, a in load.reads:
        if status == 200: asked.setdefault(a['version'], []).append((user, a['items']))
    for version in range(max(asked, default=0) + 1):
        new = log[log.version == version]
        if len(new): rec.update(new[['user', 'item']])
        users = list(dict.fromkeys(u for u, _ in asked.get(version, [])))
        if not users: continue
        items, scores = rec.recommend(users, 10)
        truth = {u: (list(i), s) for u, i, s in zip(users, items, scores)}
        for u, found in asked[version]:
            names, values = truth[u]
            close = len(found) == np.isfinite(values).sum() and np.allclose([x['score'] for x in found], values[:len(found)], atol=1e-3)
            same = close and all(x['item'] == n or np.sum(np.abs(values - v) < 2e-3) > 1 for x, n, v in zip(found, names, values))
            if not same: load.wrong.append(('not what this version gives', version, u, found))
    return sum(map(len, asked.values()))


def line(name, seconds, wall):
    t = 1e3*np.array(seconds)
    print(f'{name:9} {len(t):6,}  {len(t)/wall:7.1f} a second   p50 {np.quantile(t, .5):7.1f} ms   p99 {np.quantile(t, .99):7.1f} ms   '
          f'longest {t.max():7.1f} ms', flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--model'); p.add_argument('--readers', type=int, default=50); p.add_argument('--seconds', type=float, default=20)
    p.add_argument('--writes', type=float, default=10, help='pieces of feedback a second')
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        folder = a.model or fitted(os.path.join(tmp, 'model'))
        rec = Recommender.load(folder)
        users = [x.item() if isinstance(x, np.generic) else x for x in rec.data.users[:200]]
        server = subprocess.Popen([sys.executable, '-c', CODE, 'serve', '--model', folder, '--port', '0'], stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True)
        try:
            port = int(re.search(r'http://[\d.]+:(\d+)', server.stdout.readline())[1])
            asyncio.run(Load(port, users, min(2, a.seconds/4), a.writes).run(2, 0))    # warm
            load, t = Load(port, users, a.seconds, a.writes), time.perf_counter()
            asyncio.run(load.run(a.readers))
            wall = time.perf_counter() - t
            used = sum(map(float, open(f'/proc/{server.pid}/stat').read().rsplit(')', 1)[1].split()[11:13]))/os.sysconf('SC_CLK_TCK') \
                if os.path.exists(f'/proc/{server.pid}/stat') else float('nan')
        finally: server.kill()
    print(f'{len(rec.items):,} items, {len(rec.experts)} experts, {a.readers} readers, one writer, {wall:.1f} s')
    line('lists', [x[0] for x in load.reads], wall)
    line('feedback', [x[0] for x in load.written], wall)
    compared = check(rec, load)
    print(f'{compared:,} lists of {len({x[3].get("version") for x in load.reads}):,} versions compared; wrong: {len(load.wrong)}; '
          f'processor time of the service {used:.1f} s (start included)')
    for w in load.wrong[:5]: print(str(w)[:300])
    return bool(load.wrong)


if __name__ == '__main__': sys.exit(main())
