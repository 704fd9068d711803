"""Write nbs/llms.txt, the book's table of contents for language models, from the chapters: `python tests/llms.py`."""
import json, re
from configparser import ConfigParser
from pathlib import Path
import yaml

ROOT = Path(__file__).resolve().parents[1]

def chapter(name):
    "Title and subtitle of a page."
    text = (ROOT/'nbs'/name).read_text(encoding='utf-8')
    if name.endswith('.qmd'): return re.match(r'---\ntitle: (.+)\ndescription: (.+)\n', text).groups()
    return re.match(r'# (.+)\n+> (.+)', ''.join(json.loads(text)['cells'][0]['source'])).groups()

def stem(name):
    "What a page is called on the site: no number, no ending."
    return re.sub(r'^[0-9]+_', '', name.rpartition('.')[0])

def entry(name, base):
    "One chapter as a line: the link to its Markdown, and its subtitle."
    title, sub = chapter(name)
    return f"- [{title}]({base}/{stem(name)}.html.md): {sub}"

def href(node):
    "The file of one entry of the sidebar."
    return node if isinstance(node, str) else node['href']

def entries():
    "Parts of the book in reading order, each with its chapters."
    parts = yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']
    return [(p['section'], [*map(href, p['contents'])]) if 'section' in p else ('', [href(p)]) for p in parts]

def llms()->str:
    "The text of llms.txt."
    cfg = ConfigParser(delimiters=['=']); cfg.read(ROOT/'settings.ini', encoding='utf-8'); cfg = cfg['DEFAULT']
    base, out = cfg['doc_host'] + cfg['doc_baseurl'], [f"# {cfg['lib_name']}\n\n> {cfg['description']}"]
    for part, chapters in entries():
        out.append((f'## {part}\n\n' if part else '') + '\n'.join(entry(n, base) for n in chapters))
    out.append(f'## API\n\n- [API list]({base}/apilist.txt): Every public name of the package: parameters and one line on what it does')
    return '\n\n'.join(out) + '\n'


if __name__ == '__main__': (ROOT/'nbs'/'llms.txt').write_text(llms(), encoding='utf-8')
