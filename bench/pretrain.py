"""What pretraining on the texts of source, target, both or none does: to perplexity, and to recommendation.

    python bench/pretrain.py --pair journey                      # MiniLM: masked and contrastive, ablation with intervals
    python bench/pretrain.py --pair movielens
    python bench/pretrain.py --pair amazon --data DIR            # DIR holds amazon_food_kitchen_LLMCDSR
    python bench/pretrain.py --pair journey --encoder FILE.gguf --objectives clm --lora 8    # a decoder, perplexity before and after

Each user's last new target item is held out; the source is cut at that moment; pairs for the contrastive objective come from
training rows only. Items are ranked among all that are new to the user, by the content expert and by kriging, for
histories with target rows ("warm") and for the same users without them ("cold"). Intervals: 2,000 bootstrap samples of users, of
the paired difference to the encoder as it came. Perplexity: on a tenth of each domain's distinct titles that no arm has read.
"""
import argparse, json, time
from pathlib import Path
import numpy as np, pandas as pd
import torch
from llmrec.data import Domain, DomainPair
from llmrec.readers import load_journey, load_movielens
from llmrec.encode import TextEncoder
from llmrec.metrics import ndcg_of_ranks
from llmrec.dataset import histories, make_dataset, next_item_ranks, mask_interactions
from llmrec.baselines import Content
from llmrec.closed_form import KernelTransfer
from llmrec.preprocess import truncate_source, split_last
from llmrec.pretrain import cooccurrence_pairs, split_texts, perplexity, tiny_encoder

ARMS = dict(none=(), source=('source',), target=('target',), both=('source', 'target'))


def genres(d, *names):
    "MovieLens as a pair: films of the genres `names`, and the rest."
    on = d.items.category.fillna('').str.contains('|'.join(names)).to_numpy()
    part = lambda n, m: Domain(n, d.log[d.log.item.isin(d.items.item[m])].reset_index(drop=True), d.items[m].reset_index(drop=True))
    return DomainPair(part('other films', ~on), part('/'.join(names), on))

def amazon(folder):
    "Kitchen (source) and food (target) of the users of both."
    d = Path(folder)/'amazon_food_kitchen_LLMCDSR'
    log = pd.read_csv(d/'interactions.csv.gz').rename(columns=dict(user_id='user', item_id='item', order='time'))
    it = pd.read_csv(d/'items.csv.gz').rename(columns=dict(item_id='item'))[['item', 'domain', 'title']]
    part = lambda n: Domain(n, log.loc[log.domain == n, ['user', 'item', 'time']].reset_index(drop=True), it[it.domain == n].drop(columns='domain').reset_index(drop=True))
    return DomainPair(part('kitchen'), part('food'))

def load(name, data):
    if name == 'journey': return load_journey('GROCERY', 'NUTRITION')
    if name == 'movielens': return genres(load_movielens(), 'Sci-Fi', 'Fantasy', 'Horror')
    return amazon(data)


class Setting:
    "One pair, split; texts and pairs to train on; texts to be asked about."
    def __init__(self, pair, n_texts, n_pairs, n_users, columns, seed=0):
        log = pair.target.log.sort_values('time', kind='stable').drop_duplicates(['user', 'item'])
        self.split = split_last(log, n_valid=0, seed=seed)
        self.source, self.target, self.seed = truncate_source(pair.source, self.split), pair.target, seed
        test = self.split.test[self.split.test.user.isin(self.source.log.user)]
        self.test = test.sample(min(n_users, len(test)), random_state=seed)
        self.texts, self.held, rng = {}, {}, np.random.default_rng(seed)
        for n, d in dict(source=self.source, target=self.target).items():
            train, self.held[n] = split_texts(d.items.title, .1, seed)
            self.texts[n] = [train[i] for i in rng.permutation(len(train))[:n_texts]]
        text = pd.concat([d.items.set_index('item').title for d in (self.source, self.target)])
        train = self.split.train[['user', 'item', 'time']]
        logs = dict(source=self.source.log, target=train, both=pd.concat([self.source.log, train]))
        self.pairs = {k: cooccurrence_pairs(l[['user', 'item', 'time']], text, n_pairs, seed) for k, l in logs.items()}
        self.pairs['target'] = self.pairs['target'] or None
        self.columns = ['item', 'title'] if columns == 'title' else list(self.target.items)

    def rank(self, enc):
        "NDCG@10 of each test user, by expert and kind of history."
        t, s = self.target.items, self.source
        V = enc.encode(pd.concat([t.title, s.items.title]).tolist())
        d = make_dataset(self.split.train, t[self.columns], Domain(s.name, s.log, s.items[[c for c in s.items if c in self.columns]]), V)
        h, out = histories(d, self.test.user), {}
        y = pd.Index(d.items).get_indexer(self.test.item)
        for e in (Content(), KernelTransfer()):
            e.fit_dataset(d)
            for kind, hist in dict(cold=mask_interactions(h, h.item >= d.n_target), warm=h).items():
                out[e.name, kind] = ndcg_of_ranks(next_item_ranks(e.score_histories, hist, y, d.n_target))
        return out

    def ask(self, path, max_len):
        "Perplexity on the texts kept aside, per domain; nothing for models without a head."
        from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
        from llmrec.model_files import is_decoder, quiet_libraries
        auto = AutoModelForCausalLM if is_decoder(json.loads((path/'config.json').read_text())) else AutoModelForMaskedLM
        with quiet_libraries(): lm, info = auto.from_pretrained(path, output_loading_info=True)
        if info['missing_keys']: return {}
        tok = AutoTokenizer.from_pretrained(path)
        return {f'ppl {n}': perplexity(lm, tok, t[:200], max_len) for n, t in self.held.items()}


def trained(s, make, arm, objective, kw):
    "The encoder of one arm."
    enc, on = make(), ARMS[arm]
    if not on: return enc
    t, src = (s.texts[n] if n in on else [] for n in ('target', 'source'))
    if not t: t, src = src, []   # one domain alone takes the place of the target
    if objective == 'contrastive':
        kw = dict(kw, pairs=s.pairs[arm])
        src = []                 # pairs of both domains, and across them, are one list
    return enc.pretrain(t, source=src, objective=objective, seed=s.seed, **kw)


def interval(x, n=2000, seed=0):
    g = np.random.default_rng(seed)
    m = np.array([x[g.integers(len(x), size=len(x))].mean() for _ in range(n)])
    return np.quantile(m, [.025, .975])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--pair', default='journey', choices=['journey', 'movielens', 'amazon']); p.add_argument('--data')
    p.add_argument('--encoder', default='minilm', help="'minilm', 'tiny-bert', 'tiny-gpt', a directory or a .gguf file")
    p.add_argument('--objectives', nargs='+', default=['mlm', 'contrastive']); p.add_argument('--arms', nargs='+', default=list(ARMS))
    p.add_argument('--lora', type=int, default=0); p.add_argument('--epochs', type=int, default=2); p.add_argument('--lr', type=float)
    p.add_argument('--texts', type=int, default=3000, help='titles of a domain to train on, at most')
    p.add_argument('--pairs', type=int, default=6000); p.add_argument('--users', type=int, default=3000)
    p.add_argument('--columns', default='all', choices=['all', 'title'], help='what of the item table the kernel transfer sees beside the vectors')
    p.add_argument('--no-rank', action='store_true', help='perplexity only'); p.add_argument('--seed', type=int, default=0); p.add_argument('--out')
    a = p.parse_args()
    s = Setting(load(a.pair, a.data), a.texts, a.pairs, a.users, a.columns, a.seed)
    print(f'{a.pair}: {s.source.name} -> {s.target.name}, {len(s.test)} test users; texts {[len(t) for t in s.texts.values()]}, '
          f'pairs { {k: len(v or ()) for k, v in s.pairs.items()} }', flush=True)
    corpus = s.texts['source'] + s.texts['target']
    def make():
        if a.encoder.startswith('tiny'): return tiny_encoder(corpus, a.encoder, dim=128, vocab=3000, max_len=64)
        return TextEncoder(a.encoder, max_len=64, dtype='auto')
    kw = dict(lora=a.lora, epochs=a.epochs, lr=a.lr, batch_size=32, patience=a.epochs)
    if a.lora or a.encoder == 'minilm': kw['bf16'] = torch.cpu._is_avx512_bf16_supported()
    rows, first = [], None
    for objective in a.objectives:
        for arm in a.arms:
            if arm == 'none' and first is not None: continue   # the same for every objective
            t = time.time()
            enc = trained(s, make, arm, objective, kw)
            row = dict(objective='-' if arm == 'none' else objective, texts=arm, seconds=time.time() - t)
            if objective != 'contrastive' or arm == 'none': row |= s.ask(enc.path, enc.max_len)
            if not a.no_rank:
                r = s.rank(enc); first = r if arm == 'none' else first
                for k, x in r.items():
                    row[' '.join(k)] = x.mean()
                    if arm != 'none' and first: row[' '.join(k) + ' diff'] = '{:+.4f} [{:+.4f}, {:+.4f}]'.format((x - first[k]).mean(), *interval(x - first[k]))
            elif arm == 'none': first = {}
            rows.append(row); print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
            if a.out: Path(a.out).write_text(json.dumps(dict(args=vars(a), rows=rows), indent=1))
    print(pd.DataFrame(rows).round(4).to_string(index=False))


if __name__ == '__main__': main()
