"""One training in two processes on the CPU (gloo), joined by Accelerate.

It has the gradients of one process with twice the batch, and networks, critics and averages stay equal.
"""

import json, os, shutil, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace
import nbformat
import pytest
import torch
from accelerate import PartialState
from fastai.callback.core import Callback
from processes import finish, free_port, start_together
from sabr.core import process_share, set_seed
from sabr.data.cache import build_cache
from sabr.data.phantom import read_phantom
from sabr.data.split import draw_labelled, split_cases
from sabr.methods.published import WEIGHTS, Published
from sabr.nets.presets import make_network, preset
from sabr.run import parallel
from sabr.run.command import execute_notebook
from sabr.run.config import make_config
from sabr.shadow.geometry import geometries
from sabr.train.batch import CaseLoader, case_loaders
from sabr.train.learner import TrainSettings, fit
from sabr.train.phase import Batch

HERE = Path(__file__).parent.parent
ENV = os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join([str(HERE), os.environ.get('PYTHONPATH', '')]))
SMALL = dict(
    epochs=1,
    image_size=32,
    preset='unet_small',
    device='cpu',
    data_options=dict(n_patients=20, size=32),
    method_options=dict(announced_share=0.3, loss_weights=dict(hole=0.3)),  # it paints, so there is an inception stage
)
STEPS = dict(steps=2, finetune_steps=1, refine_steps=1)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    for name in ('OMP_NUM_THREADS', 'PYTHONPATH'):
        monkeypatch.setenv(name, ENV[name])


def options(folder, **changes):
    "The command line of a run below `folder`"
    parameters = dict(out_dir=folder / 'run', data_path=folder / 'data') | SMALL | STEPS | changes
    words = {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in parameters.items()}
    return [word for name, value in words.items() for word in (f'--{name}', value)]


# --- what each process does -------------------------------------------------------------------------------------------


def prepare(folder, **options):
    "(rank, number of processes, data, published method with these options), the same in every process"
    PartialState(cpu=True)
    rank, world = process_share()
    cases = read_phantom(folder / 'data', n_patients=20, size=32)
    cases, cache = build_cache(cases, 32, folder / f'cache{rank}_{world}', progress=False)
    cases = draw_labelled(split_cases(cases), 0.5, seed=0)
    set_seed(0)
    phase = make_config(method=Published.name, alternate=False, **options).phases['pretrain']
    method = Published(make_network(preset('tiny', n_classes=4)), phase, image_size=32)
    return rank, world, SimpleNamespace(cases=cases, cache=cache, geometry=geometries(cache.images)), method


def train(method, data, batch_size, steps, epochs, out_dir, callback):
    "The averaged network after that many epochs"
    dls = case_loaders(data, method.phase, batch_size, steps, method.network.cfg.z_dim)
    settings = TrainSettings(checkpoint=False, bar=False)
    return fit(method, dls, epochs, out_dir, settings, cbs=[callback])[0]


def plain_batch(self, samples):
    "A batch with nothing random within an image, so that two halves are one batch"
    image, label, _, n_labelled = samples
    image = image.float() / 255
    valid = torch.ones(len(image), 1, 32, 32)
    return Batch(image, label.long(), image, valid, torch.zeros(len(image), self.z_dim), n_labelled)


class KeepGradients(Callback):
    order = 100

    def __init__(self, path):
        self.path = path

    def after_backward(self):
        named = self.learn.model.network.named_parameters()
        torch.save({name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in named}, self.path)


class KeepImages(Callback):
    def __init__(self):
        self.seen = []

    def before_batch(self):
        if self.training:
            self.seen.append(self.learn.batch.image.flatten().tolist())


def leave(world):
    if world > 1:
        torch.distributed.destroy_process_group()


def one_step(folder):
    "One step on eight images, half of them labelled, shared by all processes; keeps the gradients"
    cross_entropy_alone = dict.fromkeys(WEIGHTS, 0.0) | dict(cross_entropy=1.0)
    rank, world, data, method = prepare(folder, loss_weights=cross_entropy_alone)
    CaseLoader.after_batch = plain_batch
    keep = KeepGradients(folder / f'grad_{world}_{rank}.pt')
    train(method, data, 8 // world, 1, 1, folder / f'run{world}_{rank}', keep)
    leave(world)


def published(folder):
    "Two epochs of the published method; keeps the networks, the critics and the images that were seen"
    rank, world, data, method = prepare(folder, shadow_mode='mixed')
    images = KeepImages()
    average = train(method, data, 4, 3, 2, folder / f'run{world}_{rank}', images)
    critics = dict(image_critic=method.critics.image, segmentation_critic=method.critics.segmentation)
    parts = dict(network=method.network, average=average, path_length=method.path_length) | critics
    states = {name: part.state_dict() for name, part in parts.items()}
    torch.save(states | dict(seen=torch.tensor(images.seen)), folder / f'end_{rank}.pt')
    leave(world)


# --- tests ------------------------------------------------------------------------------------------------------------


def test_same_gradients_as_one_process_with_twice_the_batch(tmp_path):
    for n in (1, 2):
        finish(*start_together(n, one_step, tmp_path, log=tmp_path / f'log{n}_'))
    one, first, second = (torch.load(tmp_path / f'grad_{name}.pt') for name in ('1_0', '2_0', '2_1'))
    assert sum(g.abs().max() > 1e-4 for g in one.values()) > 20
    for name in one:
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(one[name], first[name], atol=1e-5, rtol=1e-3), name


def test_networks_critics_and_averages_stay_equal(tmp_path):
    finish(*start_together(2, published, tmp_path, log=tmp_path / 'log'))
    first, second = (torch.load(tmp_path / f'end_{rank}.pt') for rank in (0, 1))
    for part in ('network', 'average', 'image_critic', 'segmentation_critic', 'path_length'):
        for name, value in first[part].items():
            assert torch.allclose(value.float(), second[part][name].float(), atol=1e-6), (part, name)
    assert not torch.equal(first['seen'], second['seen'])  # they saw different images


def epoch(checkpoint):
    return torch.load(checkpoint, weights_only=False)['epoch'] if checkpoint.exists() else 0


def wait_for_epoch(n, checkpoint, processes):
    until = time.time() + 400
    while epoch(checkpoint) < n:
        codes = [p.exitcode for p in processes]
        assert codes == [None, None], f'they ended too early: {codes}\n{processes[0].log.read_text()}'
        assert time.time() < until, f'epoch {epoch(checkpoint)} of {checkpoint}'
        time.sleep(0.02)


def test_goes_on_where_the_first_process_was(tmp_path):
    "The training is cut off in the middle of a stage, with the second process an epoch behind"
    args = options(tmp_path, steps=40, epochs=8)
    first, second = tmp_path / 'run/pretrain.ckpt', tmp_path / 'run/.process1/pretrain.ckpt'
    processes = start_together(2, parallel.main, args, log=tmp_path / 'log')
    wait_for_epoch(1, second, processes)
    shutil.copy(second, tmp_path / 'behind')
    wait_for_epoch(3, first, processes)
    for process in processes:
        process.kill()
        process.join()
    shutil.copy(tmp_path / 'behind', second)
    assert epoch(second) < epoch(first) < 8
    said, _ = finish(*start_together(2, parallel.main, args, log=tmp_path / 'again'))
    assert 'refine:' in said
    assert json.loads((tmp_path / 'run/stages.json').read_text())['pretrain']['image_passes'] == 320


def complete(folder):
    "The notes of the stages of a run in two processes, which must be all there"
    notes = json.loads((folder / 'run/stages.json').read_text())
    assert set(notes) == {'inception', 'pretrain', 'finetune', 'refine'}
    assert notes['pretrain']['image_passes'] == 16
    return notes


def test_stages(tmp_path):
    "As from a terminal, with torchrun: sabr_run's folder, without anything left of the second process"
    args = options(tmp_path)
    torchrun = ['-m', 'torch.distributed.run', '--nproc_per_node', '2', '--standalone']  # accelerate launch needs cards
    command = [sys.executable, *torchrun, '-m', 'sabr.run.parallel', *args]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert sum('pretrain:' in line for line in lines) == 1
    complete(tmp_path)
    assert not (tmp_path / 'run/.process1').exists() and (tmp_path / 'run/refine.safetensors').exists()
    said, _ = finish(*start_together(2, parallel.main, args, log=tmp_path / 'log'))
    printed = [
        line for line in said.splitlines() if line.split(':')[0] in ('inception', 'pretrain', 'finetune', 'refine')
    ]
    assert printed == done.stdout.splitlines()  # a second call finds all stages done, in both processes


NOTEBOOK = """from accelerate import notebook_launcher
from sabr.run.config import RunConfig
from sabr.run.parallel import train_together
notebook_launcher(train_together, (RunConfig(**parameters),), num_processes=2, use_port=port)"""


def test_notebook_launcher(tmp_path):
    "The same from a notebook: its kernel starts both processes"
    parameters = dict(out_dir=str(tmp_path / 'run'), data_path=str(tmp_path / 'data')) | SMALL | STEPS
    cell = nbformat.v4.new_code_cell(f"parameters, port = {parameters!r}, '{free_port()}'\n{NOTEBOOK}")
    kernel = dict(name='python3', display_name='python3', language='python')
    nb = nbformat.v4.new_notebook(cells=[cell], metadata=dict(kernelspec=kernel))
    nbformat.write(nb, tmp_path / 'together.ipynb')
    execute_notebook(tmp_path / 'together.ipynb', tmp_path / 'done.ipynb', {})
    complete(tmp_path)
