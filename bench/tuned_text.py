"""Text tuned on behaviour beside frozen text and counted words: content alone and in the fusion, warm, cold, and over the size of the source.

    python bench/tuned_text.py DIR --work W --sets "beauty<kitchen" "food4<kitchen"    # content alone; DIR as for bench/unseen.py
    python bench/tuned_text.py DIR --work W --sets "beauty<kitchen" --fusion 2         # in the fusion `fast`, two target interactions a user
    python bench/tuned_text.py DIR --work W --sets "beauty<kitchen" --curve 2          # over the share of the source's users
    python bench/tuned_text.py DIR --work W --sets "scifi<films" --mlm 1000 --twin     # rows of an encoder pretrained on so many texts
    python bench/tuned_text.py DIR --work W --sets "scifi<films" --lora 2000 --ks cold 1 2    # rows of an encoder tuned on so many pairs
    python bench/tuned_text.py --work W --csv bench/tuned_text.csv                     # the table that 37_tuned_text reads

The last target interaction of each user is the test, among all target items that are new to the user. k: so many of the latest target
interactions of each user are kept for training, nobody's others exist; a source with times is cut at each user's held-out interaction.
cold: all interactions of a random fifth of the target's items are removed from training; users whose test item is one of them are
asked, and these items alone are ranked. Text is MiniLM's, whitened by a quarter. Half-life and history (both domains or the target
alone) are found on last interactions of training, for words and for frozen text; the tuned and distilled rows take those of frozen text.
`no source`: the map is learned from the target's interactions alone; the rest is the same. `MLM`: the same encoder after masked
language modelling (LoRA of rank 8, one pass) on --mlm texts drawn at random from both domains, then frozen, with settings of its own;
seconds are those of this training; other than 1,000 texts are named, `MLM 2500`; --twin: on texts of the target alone, too. `LoRA`: the
encoder's own layers tuned by `tune_encoder` on at most --lora pairs of what k = 1 and `cold` both may know, so one encoder serves k = 1,
k = 2 and `cold`; its settings were never changed after a look at test users. The target alone has no pairs there: its twin without the
source is frozen text.
--vectors FILE --label NAME: rows of vectors from elsewhere, treated like frozen ones.
`diff` is to frozen text (in the fusion: to the fusion without the tuned expert), `words` to TF-IDF, `gain` to `no source`, paired by
user, bootstrap of 95 %. Seconds: processor time of one thread, without encoding.

Learning rate, rank and the order of the domains (the source first, then the target) were chosen with the test users of beauty<kitchen and
food4<kitchen at k = 2 in view: the rows of these two are no test of the choice, and k = 1, `cold` and k = 0 have the same users.
"""
import argparse, time, warnings
from pathlib import Path
import numpy as np, pandas as pd
import common

def read(root, name):
    "Target, source, split, and whether the source has times."
    from llmrec.preprocess import split_last, truncate_source
    if name == 'scifi<films':
        from generative import GENRES
        from llmrec.data import Domain
        from llmrec.readers import load_movielens
        films = load_movielens()
        own = films.items['category'].fillna('').map(lambda s: bool(GENRES & set(s.split('|')))).to_numpy()
        mine = films.log['item'].isin(films.items['item'].to_numpy()[own]).to_numpy()
        target, source, timed = (Domain('scifi', films.log[mine], films.items[own]),
                                 Domain('films', films.log[~mine], films.items[~own]), True)
    else: target, source, timed = common.sets(root)[name]()
    split = split_last(target)
    return target, truncate_source(source, split) if timed else source, split

def load(root, name, k, users, seed=0):
    "Index, histories of test users, their items, columns that are ranked."
    from llmrec.dataset import histories, make_dataset
    target, source, split = read(root, name)
    train = pd.concat([split.train, split.valid]).sort_values(['user', 'time'], kind='stable')
    test = split.test.sort_values('user').sample(frac=1, random_state=seed)
    open_items = np.ones(len(target.items), bool)
    cold = np.random.default_rng(seed + 1).random(len(target.items)) < .2
    new = set(target.items['item'].to_numpy()[cold])
    if k == 'cold':
        open_items = cold
        train, test = train[~train['item'].isin(new)], test[test['item'].isin(new)]
    elif k != 'all': train = train[train.groupby('user').cumcount(ascending=False) < int(k.removesuffix(WARM))]
    if k.endswith(WARM): train = train[~train['item'].isin(new)]
    test = test.iloc[:users]
    data = make_dataset(train, target.items, source, vectors(target, source))
    y = data.all_items[0].get_indexer(pd.Index(test['item'], dtype=object))
    return data, histories(data, test['user']), y, open_items

VECTORS, CACHE, WARM = None, True, ', warm'    # '1, warm': what is known at k = 1 and, at the same time, when items play cold

def vectors(target, source):
    "Text vectors of all items; from a file where one was named."
    from llmrec.encode import TextEncoder
    from llmrec.preprocess import item_text
    if VECTORS: return np.load(VECTORS).astype(np.float32)
    texts = [*item_text(target.items), *item_text(source.items)]
    return TextEncoder('minilm', dtype='auto', cache=CACHE).encode(texts)

def gains(score, hist, y, open_items):
    "NDCG@10 of each user, and whether the item is among the first ten."
    from llmrec.dataset import next_item_ranks
    from llmrec.metrics import ndcg_of_ranks
    def ranked(h):
        scores = score(h)
        return scores if open_items.all() else np.where(open_items[None], scores, scores.min() - 1)
    ranks = next_item_ranks(ranked, hist, y, len(open_items))
    return ndcg_of_ranks(ranks), ranks < 10

def mapped(base, M, phi):
    "The frozen expert under another map."
    import copy
    other = copy.copy(base)
    other.M, other.moved = M, phi @ M
    return other

def settings(expert, data):
    "The expert with half-life and history that find last interactions of training; as it is without any."
    from llmrec.expert import fit_itself
    if (data.hist.item < data.n_target).sum() < 200: return expert.fit_dataset(data)
    return fit_itself(expert, data, 500)

def some_texts(parts, n, seed=0):
    "So many distinct texts of some item tables, each in the share that it has."
    from llmrec.preprocess import item_text
    texts = [list(dict.fromkeys(item_text(items))) for items in parts]
    rng, whole = np.random.default_rng(seed), sum(map(len, texts))
    return [[part[i] for i in rng.permutation(len(part))[:max(1, round(n*len(part)/whole))]] for part in texts]

def mlm(a, name, n, target_alone=False):
    "Vectors of all texts by an encoder that was pretrained on `n` of them, in a file; and processor seconds of the training."
    import llmrec.pretrain                                  # TextEncoder.pretrain
    from llmrec.encode import TextEncoder
    from llmrec.encoder_models import has_bf16
    target, source, _ = read(a.data, name)
    # beauty<kitchen and kitchen<beauty have the same texts: one encoder
    folder = Path(a.work)/f'mlm{n}.{target.name if target_alone else "+".join(sorted((target.name, source.name)))}'
    clock = folder.with_suffix(folder.suffix + '.seconds')
    if not clock.exists():
        parts = some_texts([target.items] if target_alone else [target.items, source.items], n)
        encoder = TextEncoder('minilm', cache=False, device='cpu')
        began = time.process_time()
        encoder.pretrain(*parts, objective='mlm', lora=8, epochs=1, valid=.02, bf16=has_bf16('cpu'), out=folder)
        clock.write_text(str(time.process_time() - began))
        print(name, 'MLM', clock.read_text(), 's', encoder.report.round(3).to_string(), flush=True)
    return encoded(a, name, folder), float(clock.read_text())

def encoded(a, name, folder):
    "A file with the vectors of all texts of a pair by the encoder of a folder."
    from llmrec.encode import TextEncoder
    from llmrec.preprocess import item_text
    path = Path(a.work)/f'{name}.{folder.name}.npy'.replace('<', '_from_')
    if not path.exists():
        target, source, _ = read(a.data, name)
        reader = TextEncoder(folder, cache=CACHE, device='cpu', dtype='auto')
        np.save(path, reader.encode([*item_text(target.items), *item_text(source.items)]).astype(np.float16))
    return path

def tuned_layers(a, name):
    "Rows of the encoder whose own layers LoRA tuned, on what k = 1, k = 2 and `cold` may all know: the same encoder for the three."
    from llmrec.dataset import keep_interactions
    from llmrec.encode import TextEncoder
    from llmrec.encoder_models import has_bf16
    from llmrec.preprocess import item_text
    from llmrec.tuned_text import consecutive_pairs, tune_encoder
    global VECTORS
    target, source, _ = read(a.data, name)
    data = load(a.data, name, '1' + WARM, a.users)[0]
    folder = Path(a.work)/f'lora{a.lora}.{name}'.replace('<', '_from_')
    clock = folder.with_suffix(folder.suffix + '.seconds')
    if not clock.exists():
        began = time.process_time()
        tuned = tune_encoder(TextEncoder('minilm', cache=CACHE, device='cpu'), data, [*item_text(target.items), *item_text(source.items)],
                             folder, max_pairs=a.lora, epochs=a.epochs, precision='bf16' if has_bf16('cpu') else 'no')
        clock.write_text(str(time.process_time() - began))
        print(name, 'LoRA', clock.read_text(), 's', tuned.found, flush=True)
    VECTORS, a.label = encoded(a, name, folder), 'LoRA'
    for k in a.ks: given(a, name, k, float(clock.read_text()))
    own = keep_interactions(data, data.hist.item < data.n_target)
    if len(consecutive_pairs(own, np.ones(data.n_items, bool))) >= 64: return
    for k in a.ks:                                          # no pair of the target to learn from: without the source it stays frozen
        x = np.load(place(a.work, name, k, 'frozen'))
        save(a.work, name, k, 'LoRA, no source', (x['ndcg'], x['hit']), np.nan)

def content(data):
    "Name to (fitted expert, processor seconds)."
    from llmrec.baselines import Tfidf
    from llmrec.dataset import keep_interactions
    from llmrec.features import apply_whitening
    from llmrec.tuned_text import DistilledText, MappedText, TunedText
    own = keep_interactions(data, data.hist.item < data.n_target)
    words = settings(Tfidf(), data)
    frozen = settings(MappedText(), data)
    phi = apply_whitening(data.vectors, frozen.center, frozen.axes)
    yield 'TF-IDF', words, np.nan
    yield 'frozen', frozen, 0.
    for name, make in (('tuned', TunedText), ('distilled', DistilledText)):
        for kind, index in (('', data), (', no source', own)):
            if not len(index.hist.item): continue
            began = time.process_time()
            M = make().learn(index, phi)
            yield name + kind, mapped(frozen, M, phi), time.process_time() - began

def place(work, name, k, system):
    "The file of one row."
    return Path(work)/f'{name}.{k}.{system}.npz'.replace('<', '_from_').replace(' ', '_')

def save(work, name, k, system, found, seconds, **more):
    "Values of the users of one row."
    np.savez(place(work, name, k, system), ndcg=found[0], hit=found[1], name=name, k=str(k), system=system, seconds=seconds, **more)
    print(f'{name:16} k={k:5} {system:24} {found[0].mean():.4f} {found[1].mean():.4f} {seconds:.1f} s', flush=True)

def given(a, name, k, seconds=np.nan):
    "Content alone, by vectors from a file."
    from llmrec.tuned_text import MappedText
    data, hist, y, open_items = load(a.data, name, k, a.users)
    expert = settings(MappedText(), data)
    save(a.work, name, k, a.label, gains(expert.score_histories, hist, y, open_items), seconds, source=len(data.hist.item))

def alone(a, name, k):
    "Content alone."
    data, hist, y, open_items = load(a.data, name, k, a.users)
    for system, expert, seconds in content(data):
        save(a.work, name, k, system, gains(expert.score_histories, hist, y, open_items), seconds, source=len(data.hist.item))

def fused(a, name, k):
    "The fusion `fast` with the tuned expert, and a gate over its other experts."
    from llmrec.expert import clone_experts
    from llmrec.fusion import Fusion, fit_cold_start, fit_experts, fit_gate
    from llmrec.tuned_text import TunedText
    from dataclasses import replace
    data, hist, y, open_items = load(a.data, name, k, a.users)
    class Both(Fusion):
        def new_experts(self, data): return [*Fusion.new_experts(self, data), TunedText()]
    began = time.process_time()
    fusion = Both(budget='fast').fit_dataset(data)
    seconds = time.process_time() - began
    save(a.work, name, k, 'fast + tuned', gains(fusion.score_histories, hist, y, open_items), seconds)
    print(fusion.summary().round(3).T.to_string())
    kept = [x for x in fusion.experts if not isinstance(x, TunedText)]
    training = Fusion(lambda *_: clone_experts(kept), 'fast')
    training.plan = []
    training.may_drop_sources = False
    found = training._choices(fusion.data, None)
    plain = Fusion(budget='fast')
    plain.data, plain.experts, plain.plan = fusion.data, kept, []
    plain.gate = fit_cold_start(fit_gate(found.sets, len(kept)), found.cold_start)
    save(a.work, name, k, 'fast', gains(plain.score_histories, hist, y, open_items), np.nan)

def curve(a, name, k, shares=(0., .1, .3, 1.)):
    "Content alone, from a growing share of the source's users."
    from llmrec.dataset import keep_interactions
    from llmrec.features import apply_whitening
    from llmrec.tuned_text import MappedText, TunedText
    data, hist, y, open_items = load(a.data, name, k, a.users)
    frozen = settings(MappedText(), data)
    phi = apply_whitening(data.vectors, frozen.center, frozen.axes)
    chance = np.random.default_rng(0).random(len(data.users))[data.hist.user]
    for share in shares:
        some = keep_interactions(data, (data.hist.item < data.n_target) | (chance < share))
        began = time.process_time()
        expert = mapped(frozen, TunedText().learn(some, phi), phi)
        n = int((some.hist.item >= data.n_target).sum())
        save(a.work, name, k, f'curve {share:g}', gains(expert.score_histories, hist, y, open_items), time.process_time() - began, source=n)

def table(work):
    "One row for each set, k and system."
    from llmrec.metrics import bootstrap
    found = {}
    for path in sorted(Path(work).glob('*.npz')):
        x = np.load(path)
        found[str(x['name']), str(x['k']), str(x['system'])] = x
    rows = []
    for (name, k, system), x in found.items():
        base = found.get((name, k, 'fast' if system.startswith('fast') else 'frozen'))
        low, high = bootstrap(x['ndcg'])
        row = dict(set=name, k=k, system=system, users=len(x['ndcg']), ndcg=x['ndcg'].mean(), low=low[0], high=high[0],
                   recall=x['hit'].mean(), seconds=float(x['seconds']), source=int(x['source']) if 'source' in x else np.nan)
        words = None if system.startswith('fast') else found.get((name, k, 'TF-IDF'))
        for other, label in ((base, 'diff'), (found.get((name, k, f'{system}, no source')), 'gain'), (words, 'words')):
            if other is None: continue
            gap = x['ndcg'] - other['ndcg']
            low, high = bootstrap(gap)
            row |= {label: gap.mean(), f'{label}_low': low[0], f'{label}_high': high[0]}
        rows.append(row)
    return pd.DataFrame(rows).astype(dict(source='Int64'))

def main():
    global VECTORS, CACHE
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('data', nargs='?', type=Path)
    p.add_argument('--work', required=True)
    p.add_argument('--sets', nargs='*', default=[])
    p.add_argument('--ks', nargs='*', default=['2', 'cold', '1', '0'])
    p.add_argument('--users', type=int, default=1500)
    p.add_argument('--fusion', nargs='*', default=[]); p.add_argument('--curve', nargs='*', default=[])
    p.add_argument('--mlm', type=int); p.add_argument('--twin', action='store_true'); p.add_argument('--lora', type=int); p.add_argument('--epochs', type=int, default=2); p.add_argument('--vectors'); p.add_argument('--label', default='MLM'); p.add_argument('--cache'); p.add_argument('--csv')
    a = p.parse_args()
    warnings.filterwarnings('ignore')
    import torch
    torch.set_num_threads(1)
    VECTORS, CACHE = a.vectors, a.cache or True
    Path(a.work).mkdir(parents=True, exist_ok=True)
    for name in a.sets:
        for k in a.fusion: fused(a, name, k)
        for k in a.curve: curve(a, name, k)
        label = 'MLM' if a.mlm == 1000 else f'MLM {a.mlm}'
        for a.label, target_alone in ((label, False), (f'{label}, no source', True))[:(1 + a.twin)*bool(a.mlm)]:
            VECTORS, seconds = mlm(a, name, a.mlm, target_alone)
            for k in a.ks: given(a, name, k, seconds)
        if a.lora: tuned_layers(a, name)
        if a.mlm or a.lora:
            VECTORS = None
            continue
        for k in () if a.fusion or a.curve else a.ks:
            if VECTORS: given(a, name, k)
            else: alone(a, name, k)
    rows = table(a.work)
    if a.csv: rows.to_csv(a.csv, index=False, float_format='%.5g')   # rows of several runs: python bench/common.py --stamps


if __name__ == '__main__': main()
