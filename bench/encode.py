"""Encoding speed against sentence-transformers, and its ONNX backend where that can be had: same texts, same weights, one run, rounds interleaved.

    python bench/encode.py --data DIR          # DIR holds amazon_food_kitchen_LLMCDSR/items.csv.gz
    python bench/encode.py                     # titles of the Complete Journey instead

    python bench/encode.py --data DIR --threads 1 --ratios bench/ratios.csv    # the rows that chapter 59 shows
    pip install optimum[onnxruntime]           # for the ONNX row; the model is exported to a temporary folder first

Seconds are processor time, of all threads. Prints items/s, tokens/s, the ratio to sentence-transformers (median, lowest and highest of the rounds), the lowest cosine
to its float32 vectors, peak memory of a fresh process that encodes the first 1,000 texts, and the share of the machine's
measured matrix-product peak.
"""
import argparse, json, resource, subprocess, sys, time
from pathlib import Path
import numpy as np, pandas as pd
from common import keep_ratios, ratio_row

PATHS = ['sentence-transformers', 'sentence-transformers, ONNX', 'llmrec float32', 'llmrec auto']


def texts_of(data, n_titles, n_long):
    "Distinct titles, and texts of about 128 tokens made of several of them."
    if data: t = pd.read_csv(Path(data)/'amazon_food_kitchen_LLMCDSR'/'items.csv.gz').title
    else:
        from llmrec.readers import load_journey
        t = load_journey().source.items.title
    t = t.dropna().drop_duplicates().sample(frac=1, random_state=0).tolist()
    from llmrec.encode import TextEncoder
    lens, rng, long = [len(i) for i in TextEncoder('minilm').tokenize(t)], np.random.default_rng(0), []
    while len(long) < n_long:
        want, n, out = rng.normal(128, 20), 0, []
        while n < want: out.append(t[i := rng.integers(len(t))]); n += lens[i]
        long.append(' '.join(out))
    return dict(titles=t[:n_titles], long=long)


def peak(dtype):
    "Best measured GFLOP/s of a product of the model's shapes, all threads."
    import torch
    a, b, best = torch.randn(2048, 384, dtype=dtype), torch.randn(384, 1536, dtype=dtype), 0
    for _ in range(30):
        t = time.process_time()
        for _ in range(10): a@b
        best = max(best, 20*2048*384*1536/(time.process_time() - t)/1e9)
    return best


def encoder(path):
    "A function from texts to unit vectors."
    from llmrec.encode import TextEncoder, bundled_minilm
    if path.startswith('llmrec'): return TextEncoder('minilm', dtype=path.split()[1], cache=False, device='cpu').encode
    from sentence_transformers import SentenceTransformer
    if path.endswith('ONNX'): import optimum.onnxruntime, onnxruntime
    m = SentenceTransformer(str(bundled_minilm()), device='cpu', **(dict(backend='onnx') if path.endswith('ONNX') else {}))
    return lambda t: m.encode(t, show_progress_bar=False, normalize_embeddings=True)


def memory(path, texts):
    "Peak resident MiB of a fresh process that encodes `texts` along `path`."
    code = ('import sys, json; sys.path.insert(0, sys.argv[1]); from encode import encoder, high_water\n'
            'encoder(sys.argv[2])(json.load(sys.stdin)); print(high_water())')
    r = subprocess.run([sys.executable, '-c', code, str(Path(__file__).parent), path], input=json.dumps(texts), text=True,
                       capture_output=True, check=True)
    return float(r.stdout.split()[-1])

def high_water():
    "Peak resident MiB of this process (getrusage would tell the parent's, if that was larger when it started us)."
    s = Path('/proc/self/status')
    if s.exists(): return int(next(l for l in s.read_text().splitlines() if l.startswith('VmHWM')).split()[1])/1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(2**20 if sys.platform == 'darwin' else 1024)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data'); p.add_argument('--titles', type=int, default=5000); p.add_argument('--long', type=int, default=2000)
    p.add_argument('--rounds', type=int, default=5); p.add_argument('--threads', type=int, help='1 on a busy machine, where several wait for each other')
    p.add_argument('--out', help='write the table as JSON'); p.add_argument('--ratios', help='CSV that takes the ratios')
    a = p.parse_args()
    import torch
    from llmrec.encode import TextEncoder, has_bf16
    if a.threads: torch.set_num_threads(a.threads)
    enc, kept = {}, []
    for k in PATHS:
        try: enc[k] = encoder(k)
        except Exception as e: print(f'{k}: left out, {type(e).__name__}: {str(e)[:200]}')
    flops = 6*2*(4*384**2 + 2*384*1536)   # multiply-adds x 2 of one token in MiniLM's linear layers
    rows = []
    for name, texts in texts_of(a.data, a.titles, a.long).items():
        tokens = sum(map(len, TextEncoder('minilm').tokenize(texts)))
        took, V, top = {k: [] for k in enc}, {}, {}
        for k in enc: enc[k](texts[:64])
        for _ in range(a.rounds):
            top = {d: max(top.get(d, 0), peak(getattr(torch, d))) for d in ('float32', 'bfloat16')}
            for k in enc:
                t = time.process_time(); V[k] = enc[k](texts); took[k].append(time.process_time() - t)
        for k in enc:
            s, ratios = np.median(took[k]), np.array(took[PATHS[0]])/took[k]   # of the same round
            d = 'bfloat16' if k.endswith('auto') and has_bf16() else 'float32'
            rows.append(dict(texts=name, path=k, n=len(texts), tokens=tokens, seconds=s, items_s=len(texts)/s, tokens_s=tokens/s,
                             ratio=np.median(ratios), lowest=ratios.min(), highest=ratios.max(), min_cosine=(V[k]*V[PATHS[0]]).sum(1).min(),
                             peak_MiB=np.nan if a.ratios else memory(k, texts[:1000]), of_peak=tokens*flops/min(took[k])/1e9/top[d]))
            print('.', end='', file=sys.stderr, flush=True)
        for ours, theirs in (('llmrec float32', PATHS[0]), ('llmrec float32', PATHS[1]), ('llmrec auto', PATHS[0])):
            if theirs not in enc: continue
            d = 'bfloat16' if ours.endswith('auto') and has_bf16() else 'float32'
            cosine = (V[ours]*V[theirs]).sum(1).min()
            kept.append(ratio_row(f'encode {name}, {ours.split()[1]}', theirs, f'{len(texts):,} texts, {tokens:,} tokens', took[ours], took[theirs],
                                  tokens*flops/1e9/top[d], f'cosine at least {cosine:.4f}'))
        print(f'{name}: matrix-product peak {top["float32"]:.0f} (float32), {top["bfloat16"]:.0f} (bfloat16) GFLOP/s, '
              f'{torch.get_num_threads()} threads')
    df = pd.DataFrame(rows)
    print(df.round(dict(seconds=2, items_s=0, tokens_s=0, ratio=2, lowest=2, highest=2, min_cosine=5, peak_MiB=0, of_peak=2)).to_string(index=False))
    keep_ratios(kept, f'python bench/encode.py --titles {a.titles} --long {a.long} --threads 1', a.ratios)
    if a.out: Path(a.out).write_text(df.to_json(orient='records', indent=1))


if __name__ == '__main__': main()
