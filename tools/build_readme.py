#!/usr/bin/env python
"""Write README.md from nbs/index.ipynb, without Quarto.

usage: build_readme.py [ROOT]      ROOT is the project's folder unless given

Cells that begin with `#| hide` or carry the tag `hide` are left out. `#| echo: false` leaves out the code of a cell and
keeps its results. Other `#|` lines are removed. Text results become ```text blocks. Pictures are written to
nbs/images/index_*. Links are relative to nbs/ in the notebook and to the project's folder in README.md. A link to a
file that does not exist is an error.
"""

import os, posixpath, re, sys
from pathlib import Path
from urllib.parse import unquote

import nbformat
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import Preprocessor
from traitlets.config import Config

# a markdown link or picture, or the src or href of an HTML tag, in two groups: the text before the target, the target
LINK = re.compile(r'(\]\(|\b(?:src|href)=")([^)"\s]+)')
CODE = re.compile(r'(^```.*?^```[^\n]*$|`[^`\n]+`)', re.M | re.S)
HEADER = '<!-- Written by `make readme` from nbs/index.ipynb: edit the notebook, not this file. -->\n\n'


class Flags(Preprocessor):
    "Obeys the `#|` lines at the top of code cells, and rewrites the links of markdown cells"

    def preprocess(self, nb, resources):
        nb.cells = [cell for cell in map(shown, nb.cells) if cell is not None]
        return nb, resources


def shown(cell):
    "The cell as README.md shows it, or None for a cell that is left out"
    if 'hide' in cell.metadata.get('tags', []):
        return None
    if cell.cell_type == 'markdown':
        cell.source = from_root(cell.source)
    return shown_code(cell) if cell.cell_type == 'code' else cell


def shown_code(cell):
    flags = re.findall(r'^#\|\s*(.*?)\s*$', cell.source, re.M)
    if any(flag.split()[:1] == ['hide'] or flag == 'include: false' for flag in flags):
        return None
    cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M).strip()
    if 'echo: false' in flags:
        cell.source = ''
    return cell if cell.source or cell.outputs else None


def is_relative(target):
    return not re.match(r'[a-z][a-z0-9+.-]*:|[#/]', target, re.I)


def from_root(text):
    "`text` of a markdown cell in nbs/, with its relative links seen from the project's folder. Code is left alone"

    def move(match):
        before, target = match.groups()
        if not is_relative(target):
            return match[0]
        return before + posixpath.normpath(posixpath.join('nbs', target))

    parts = CODE.split(text)
    return ''.join(part if i % 2 else LINK.sub(move, part) for i, part in enumerate(parts))


def dead_links(text, root):
    "The relative links of `text` for which there is no file below `root`"
    prose = ''.join(CODE.split(text)[::2])
    targets = [target for _, target in LINK.findall(prose) if is_relative(target)]
    return [target for target in targets if not (root / unquote(target.split('#')[0])).exists()]


# code and results as fenced blocks; a cell whose code is hidden shows its results only
TEMPLATE = """{% extends 'markdown/index.md.j2' %}
{% block input %}{% if cell.source %}```python
{{ cell.source }}
```{% endif %}
{% endblock input %}
{% block stream %}
```text
{{ output.text | strip_ansi | trim }}
```
{% endblock stream %}
{% block data_text scoped %}
```text
{{ output.data['text/plain'] | trim }}
```
{% endblock data_text %}"""


def exporter():
    priority = ['text/markdown', 'image/svg+xml', 'image/png', 'image/jpeg', 'text/plain']
    made = MarkdownExporter(config=Config(NbConvertBase=dict(display_data_priority=priority)), raw_template=TEMPLATE)
    made.register_preprocessor(Flags, enabled=True)
    return made


def write_pictures(pictures, root):
    "Replace the pictures of nbs/images/index_* by `pictures`: {relative name: bytes}"
    for old in (root / 'nbs' / 'images').glob('index_*'):
        old.unlink()
    for name, data in sorted(pictures.items()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def build(root):
    "Write `root`/README.md and return its text"
    source = root / 'nbs' / 'index.ipynb'
    if not source.exists():
        raise SystemExit(f'{source} is missing: README.md is written from it')
    names = dict(unique_key='index', output_files_dir='nbs/images')
    text, found = exporter().from_notebook_node(nbformat.read(source, 4), resources=names)
    text = HEADER + re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'
    write_pictures(found['outputs'], root)
    dead = dead_links(text, root)
    if dead:
        raise SystemExit(
            f'nbs/index.ipynb links to files that do not exist (seen from {root.name}/): {", ".join(dead)}'
        )
    new = root / 'README.md.new'
    new.write_text(text, encoding='utf-8')
    os.replace(new, root / 'README.md')
    return text


if __name__ == '__main__':
    if len(sys.argv) > 2 or '-h' in sys.argv or '--help' in sys.argv:
        raise SystemExit(__doc__)
    build(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve())
