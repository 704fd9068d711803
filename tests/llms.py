"""Write nbs/llms.txt, the book's table of contents for language models, from the chapters: `python tests/llms.py`."""
import json, re
from configparser import ConfigParser
from pathlib import Path
import yaml

ROOT = Path(__file__).resolve().parents[1]

def entry(name, base):
    "One chapter as a line: its link and its subtitle."
    nb = json.loads((ROOT/'nbs'/name).read_text(encoding='utf-8'))
    title, sub = re.match(r'# (.+)\n+> (.+)', ''.join(nb['cells'][0]['source'])).groups()
    return f"- [{title}]({base}/{re.sub(r'^[0-9]+_', '', name[:-6])}.html): {sub}"

def entries():
    "Parts of the book in reading order, each with its chapters."
    parts = yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']
    return [('', [p]) if isinstance(p, str) else (p['section'], p['contents']) for p in parts]

def llms()->str:
    "The text of llms.txt."
    cfg = ConfigParser(delimiters=['=']); cfg.read(ROOT/'settings.ini', encoding='utf-8'); cfg = cfg['DEFAULT']
    base, out = cfg['doc_host'] + cfg['doc_baseurl'], [f"# {cfg['lib_name']}\n\n> {cfg['description']}"]
    for part, chapters in entries():
        out.append((f'## {part}\n\n' if part else '') + '\n'.join(entry(n, base) for n in chapters))
    return '\n\n'.join(out) + '\n'


if __name__ == '__main__': (ROOT/'nbs'/'llms.txt').write_text(llms(), encoding='utf-8')
