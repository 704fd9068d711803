"""Run chapters from top to bottom in fresh kernels, store their outputs, clean them, and write all that is generated:
`python tests/refresh.py [--slow] [--times] [CHAPTER …]`; without names, the whole book in reading order. `--times` keeps the seconds
of each chapter in bench/chapters.csv, for the page "How to read": on a machine that does nothing else.

Cells under `#| slow`, `#| cuda`, `#| net` or `#| notest` keep their stored outputs; `--slow` runs the slow ones too."""
import argparse, csv, os, re, subprocess, sys, time
from pathlib import Path
import nbformat
from nbclient import NotebookClient
from llms import ROOT, entries, llms
from readme import readme

class Chapter(NotebookClient):
    "Runs what is to be run, and leaves the outputs of the rest."
    async def async_execute_cell(self, cell, *args, **kw):
        flags = set(re.findall(r'^#\| *(slow|cuda|net|notest|eval: false) *$', cell.source, re.M))
        if cell.cell_type != 'code' or flags & self.skip or 'nbdev_export()' in cell.source: return cell
        return await super().async_execute_cell(cell, *args, **kw)

def joined(outputs):
    "Outputs without the error stream and without widgets, printed text in one piece."
    out = []
    for o in outputs:
        if o.output_type == 'stream' and o.name == 'stderr': continue
        if 'application/vnd.jupyter.widget-view+json' in o.get('data', {}): continue   # a control or bar is nothing on a page
        if out and o.output_type == out[-1].output_type == 'stream': out[-1].text += o.text
        else: out.append(o)
    return out

def run(path:Path, skip):
    "Run one chapter; its file changes only if all cells ran."
    nb = nbformat.read(path, 4)
    client = Chapter(nb, timeout=3600, kernel_name='python3', resources={'metadata': {'path': str(path.parent)}})
    client.skip = skip
    client.execute()
    for c in nb.cells:
        if c.cell_type == 'code': c.outputs = joined(c.outputs)
    nb.metadata.pop('widgets', None)
    nbformat.write(nb, path)

def keep_times(took):
    "Seconds of chapters in bench/chapters.csv; those that did not run keep theirs."
    from guide import seconds
    all_times = sorted((seconds() | took).items())
    with (ROOT/'bench'/'chapters.csv').open('w', encoding='utf-8', newline='') as f:
        out = csv.writer(f, lineterminator='\n')
        out.writerow(['chapter', 'seconds'])
        out.writerows(all_times)

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('chapters', nargs='*'); p.add_argument('--slow', action='store_true'); p.add_argument('--times', action='store_true')
    a = p.parse_args()
    book = [c for _, cs in entries() for c in cs if c.endswith('.ipynb')]
    todo = [c for c in book if not a.chapters or c.removesuffix('.ipynb') in {Path(x).name.removesuffix('.ipynb') for x in a.chapters}]
    if len(todo) < len(a.chapters): sys.exit(f'there are only these chapters: {", ".join(book)}')
    os.environ['PYTHONPATH'] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
    skip = {'cuda', 'net', 'notest', 'eval: false'} | ({'slow'} if not a.slow else set())
    nbdev = lambda command, *args: subprocess.run([sys.executable, '-c', f'from nbdev.{command}', *args], cwd=ROOT, check=True)
    nbdev('doclinks import nbdev_export; nbdev_export()')
    took = {}
    for c in todo:
        t = time.time()
        run(ROOT/'nbs'/c, skip)
        took[c.removesuffix('.ipynb')] = round(time.time() - t)
        print(f'{c}: {time.time() - t:.0f} s', flush=True)
    if a.times: keep_times(took)
    nbdev('clean import nbdev_clean; nbdev_clean()')
    import pages
    pages.main()
    (ROOT/'README.md').write_text(readme(ROOT/'nbs'/'index.ipynb'), encoding='utf-8')
    (ROOT/'nbs'/'llms.txt').write_text(llms(), encoding='utf-8')
    from architecture import contributing
    (ROOT/'CONTRIBUTING.md').write_text(contributing(), encoding='utf-8')


if __name__ == '__main__': main()
