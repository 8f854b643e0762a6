"One training in two processes on the CPU (gloo), joined by Accelerate: the gradients of one process with twice the batch; equal networks, critics and averages."

import json, os, subprocess, sys
from pathlib import Path
import pytest
import torch

HERE = Path(__file__).parent.parent
ENV = os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join([str(HERE), os.environ.get('PYTHONPATH', '')]))

WORKER = """
import sys, torch, numpy as np
from pathlib import Path
from accelerate import PartialState
from fastai.callback.core import Callback
PartialState(cpu=True)
from sabr.train.batch import CaseDL, case_loaders
from sabr.data.cache import build_cache
from sabr.core import process_share, set_seed
from sabr.train.losses import PUBLISHED
from sabr.nets.model import make_network, preset
from sabr.data.phantom import read_phantom
from sabr.shadow.imitate import geometries
from sabr.data.split import draw_labelled, split_cases
from sabr.train.learner import fit, make_nets
import sabr.train.batch, sabr.train.learner
out, what = Path(sys.argv[1]), sys.argv[2]; rank, world = process_share()
cases, cache = build_cache(read_phantom(out/'data', n_patients=20, size=32), 32, out/f'cache{rank}_{world}', progress=False)
cases = draw_labelled(split_cases(cases), .5, seed=0)
set_seed(0); net = make_network(preset('tiny', n_classes=4))
if what == 'gradient':   # nothing random within an image, so that two halves are one batch
    sabr.train.batch.CaseDL.after_batch = lambda self, b: (b[0].float() / 255, torch.ones(len(b[0]), 1, 32, 32), torch.zeros(len(b[0]), 32), b[0].float() / 255, b[1].long(), torch.ones(len(b[0]), 1, 32, 32))
    class Keep(Callback):
        order = 100
        def after_backward(self): torch.save({n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in self.learn.model.named_parameters()}, out/f'grad_{world}_{rank}.pt')
    dls = case_loaders(cache, cases, 1, 8 // world, True); fit(net, dls, dict(ce=1.), 1, out_dir=out/f'run{world}_{rank}', checkpoint=False, bar=False, cbs=[Keep()])
else:
    nets = make_nets(net, 32, PUBLISHED); dls = case_loaders(cache, cases, 3, 4, True, 'mixed', geoms=geometries(cache.images))
    seen = []
    class Seen(Callback):
        def before_batch(self):
            if self.training: seen.append(self.xb[0].flatten().tolist())
    average, _, _ = fit(net, dls, PUBLISHED, 2, out_dir=out/f'run{world}_{rank}', size=32, nets=nets, checkpoint=False, bar=False, cbs=[Seen()])
    torch.save(dict(net=net.state_dict(), average=average.state_dict(), img_d=nets.img_d.state_dict(), seg_d=nets.seg_d.state_dict(), path=nets.path.state_dict(), seen=torch.tensor(seen)), out/f'end_{rank}.pt')
torch.distributed.destroy_process_group() if world > 1 else None
"""


def launch(n, *args, module=False):
    cmd = (
        [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', str(n), '--standalone']
        if n > 1
        else [sys.executable]
    )  # accelerate launch starts several processes on cards only
    p = subprocess.run(
        [*cmd, *(['-m'] if module else []), *map(str, args)], env=ENV, capture_output=True, text=True, timeout=400
    )
    assert p.returncode == 0, p.stdout + p.stderr
    return p.stdout


@pytest.fixture
def script(tmp_path):
    (tmp_path / 'worker.py').write_text(WORKER)
    return tmp_path / 'worker.py'


def test_same_gradients_as_one_process_with_twice_the_batch(tmp_path, script):
    for n in (1, 2):
        launch(n, script, tmp_path, 'gradient')
    one, a, b = (torch.load(tmp_path / f'grad_{w}_{r}.pt') for w, r in ((1, 0), (2, 0), (2, 1)))
    assert sum(g.abs().max() > 1e-4 for g in one.values()) > 20
    for k in one:
        assert torch.equal(a[k], b[k]) and torch.allclose(one[k], a[k], atol=1e-5, rtol=1e-3), k


def test_networks_critics_and_averages_stay_equal(tmp_path, script):
    launch(2, script, tmp_path, 'published')
    a, b = (torch.load(tmp_path / f'end_{r}.pt') for r in (0, 1))
    for part in ('net', 'average', 'img_d', 'seg_d', 'path'):
        for k, v in a[part].items():
            assert torch.allclose(v.float(), b[part][k].float(), atol=1e-6), (part, k)
    assert not torch.equal(a['seen'], b['seen'])  # they saw different images


def test_goes_on_where_the_first_process_was(tmp_path):
    "Cut off in the middle of a stage, with the second process an epoch behind."
    import signal, time, shutil

    args = [
        'sabr.run.parallel',
        '--out_dir',
        tmp_path / 'run',
        '--data_path',
        tmp_path / 'data',
        '--steps',
        40,
        '--finetune_steps',
        1,
        '--refine_steps',
        1,
        '--epochs',
        8,
        '--image_size',
        32,
        '--preset',
        'unet_small',
        '--device',
        'cpu',
        '--data_options',
        '{"n_patients": 20, "size": 32}',
    ]
    cmd = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--nproc_per_node',
        '2',
        '--standalone',
        '-m',
        *map(str, args),
    ]
    p = subprocess.Popen(cmd, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    first, second, t0 = tmp_path / 'run/pretrain.ckpt', tmp_path / 'run/.process1/pretrain.ckpt', time.time()
    epoch = lambda f: torch.load(f, weights_only=False)['epoch'] if f.exists() else 0
    while epoch(second) < 1:
        assert time.time() - t0 < 200
        time.sleep(0.05)
    shutil.copy(second, tmp_path / 'behind')
    while epoch(first) < 3:
        assert time.time() - t0 < 200
        time.sleep(0.05)
    os.killpg(p.pid, signal.SIGKILL)
    p.wait()
    shutil.copy(tmp_path / 'behind', second)
    assert epoch(second) < epoch(first) < 8
    said = launch(2, *args, module=True)
    assert 'refine:' in said
    assert json.loads((tmp_path / 'run/stages.json').read_text())['pretrain']['image_passes'] == 320


def test_stages(tmp_path):
    "The stages of a run in two processes; sabr_run's folder, without anything left of the second process."
    args = [
        'sabr.run.parallel',
        '--out_dir',
        tmp_path / 'run',
        '--data_path',
        tmp_path / 'data',
        '--steps',
        2,
        '--finetune_steps',
        1,
        '--refine_steps',
        1,
        '--epochs',
        1,
        '--image_size',
        32,
        '--preset',
        'unet_small',
        '--device',
        'cpu',
        '--data_options',
        '{"n_patients": 20, "size": 32}',
    ]
    said = launch(2, *args, module=True)
    assert said.count('pretrain:') == 1
    notes = json.loads((tmp_path / 'run/stages.json').read_text())
    assert set(notes) == {'inception', 'pretrain', 'finetune', 'refine'} and notes['pretrain']['image_passes'] == 16
    assert not (tmp_path / 'run/.process1').exists() and (tmp_path / 'run/refine.safetensors').exists()
    assert launch(2, *args, module=True) == said  # a second call finds all stages done, in both processes


NOTEBOOK = """from pathlib import Path
from accelerate import notebook_launcher
from sabr.run.config import RunConfig
from sabr.run.parallel import train_together
cfg = RunConfig(out_dir=f'{folder}/run', data_path=f'{folder}/data', steps=2, finetune_steps=1, refine_steps=1, epochs=1, image_size=32, preset='unet_small', device='cpu', data_options=dict(n_patients=20, size=32))
notebook_launcher(train_together, (cfg,), num_processes=2, use_port=port)"""


def test_notebook_launcher(tmp_path, monkeypatch):
    "The same from a notebook: its kernel starts both processes."
    import nbformat, socket
    from nbclient import NotebookClient

    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    for k in ('OMP_NUM_THREADS', 'PYTHONPATH'):
        monkeypatch.setenv(k, ENV[k])
    nb = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(f"folder, port = {str(tmp_path)!r}, '{port}'\n" + NOTEBOOK)]
    )
    NotebookClient(nb, timeout=400, kernel_name='python3').execute()
    notes = json.loads((tmp_path / 'run/stages.json').read_text())
    assert set(notes) == {'inception', 'pretrain', 'finetune', 'refine'} and notes['pretrain']['image_passes'] == 16
