#!/usr/bin/env python
"""Write the parameters of a run into the experiment notebooks that run its stages.

usage: write_parameters.py [ROOT]        ROOT is the project's folder unless given

These notebooks are those of `sabr_run`. In each of them, the cell with the tag `parameters` lists all parameters of a
run, with their defaults and comments from nbs/70_run.config.ipynb. Only that cell is changed.
"""

import json, sys
from pathlib import Path
from sabr.run.command import NOTEBOOKS
from sabr.run.config import parameters_cell

MAX_WIDTH = 120  # columns; ruff would break a wider line


def too_wide(source):
    "The names of the parameters whose lines are too wide"
    return [line.split(':')[0] for line in source.splitlines() if len(line) > MAX_WIDTH]


def write(path, source):
    "Put `source` into the cell with the tag `parameters` of a notebook"
    notebook = json.loads(path.read_text(encoding='utf-8'))
    cells = [cell for cell in notebook['cells'] if 'parameters' in cell['metadata'].get('tags', [])]
    if len(cells) != 1:
        raise SystemExit(f'write_parameters: {path}: {len(cells)} cells have the tag `parameters`; there must be one')
    lines = source.splitlines(keepends=True)
    if cells[0]['source'] == lines:
        return
    cells[0]['source'] = lines
    text = json.dumps(notebook, sort_keys=True, indent=1, ensure_ascii=False)  # as nbdev_clean writes it
    path.write_text(text + '\n', encoding='utf-8')
    print(f'write_parameters: {path}')


def main(root):
    source = parameters_cell()
    wide = too_wide(source)
    if wide:
        raise SystemExit(f'write_parameters: over {MAX_WIDTH} columns: shorten the comment of {", ".join(wide)}')
    for name in NOTEBOOKS:
        write(root / 'nbs' / 'experiments' / f'{name}.ipynb', source)


if __name__ == '__main__':
    if len(sys.argv) > 2 or '-h' in sys.argv or '--help' in sys.argv:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve())
