"""Compare what two checkouts compute: an older one, and one whose inside was rebuilt.

usage: reference.py OLD_CHECKOUT [NEW_CHECKOUT]        NEW_CHECKOUT is the current folder unless given

OLD_CHECKOUT has the flat modules of commit 9fae838 (`git worktree add FOLDER 9fae838` makes one); NEW_CHECKOUT has one
class a method.
Each of them trains every method in every phase for two steps in a process of its own: one thread, double precision,
images of 64 px, eight in a batch. Networks (`unet_small` and `tiny`), critics, heads and teachers begin with the same
random weights, both sides see the same batches, and the random generators are seeded alike before each step.
The steps are taken by the trainers of the two checkouts, so that the order of things within a step is compared, too.

Four kinds of numbers are compared: settings of the phase (learning rate, betas, schedule, ...), loss terms (those of
critics included), gradients before they are clipped, and all weights and buffers after each step: of the trained
network, of its moving average, and of what a method puts beside it. A table shows the largest difference of each kind.
The exit code is 1 where a difference is above 1e-10, or where a number is there on one side only.

Some things were changed on purpose. Both sides are given the same draws, or are kept from differing, where
- the default recipe draws second views: once each image had its chance, now their number is fixed;
- UniMatch and BCP draw boxes: once with numpy, now with torch;
- six rivals (Mean Teacher, UA-MT, ICT, URPC, SCO-SSL, BCP) moved their teacher and their schedule once for each
  callback without an `after_step` of its own, about ten times a step: a fault of the old checkout. Here only the one
  callback that is meant to move them does so;
- the published recipe, with `matching` and without `segmentation_critic`, asked the critic about real pairs first. Its
  spectral norm moves a little with each question, so the order counts. Here predictions come first on both sides.
Adam divides small gradients by their own size: rounding in the 16th digit grows to 4e-10 in a weight after one step.
Both sides have an epsilon of 1e-4 instead, so that weights can be compared as closely as gradients.
Not seen here, because the learning rate is constant in two steps, a class has no part in it, or precision is full:
- the critics' learning rate followed the generator's one step late;
- the default recipe's teacher was asked outside of autocast, and is asked inside of it now;
- the published recipe failed on a network without style (`unet_small`) unless path_length had the weight 0. Now the
  term is left out there. Here its weight is 0 on both sides.
"""

import os, subprocess, sys, tempfile
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch
import numpy as np
import torch

TOLERANCE = 1e-10
EPSILON = 1e-4  # of Adam
PRESETS = ('unet_small', 'tiny')
SIZE, BATCH_SIZE, N_CLASSES, UNLABELLED = 64, 8, 4, 255
STEPS = 40  # of pretraining; fine-tuning has half of them and refinement a quarter, so that a rival has 70
KINDS = ('setting', 'term', 'gradient', 'weight')


# What is compared


@dataclass
class Case:
    "Two steps of one phase of one method."

    method: str
    phase: str
    batches: tuple = ('mixed', 'mixed')  # of the two steps: mixed, labelled or unlabelled
    options: dict = field(default_factory=dict)  # of the method, by their new names
    progress: float = 0.0  # share of the schedule that is done before
    preset: str = ''

    def __str__(self):
        parts = [self.preset, self.method, self.phase, '+'.join(self.batches)]
        parts += [f'{name}={value}' for name, value in self.options.items()]
        return ', '.join(parts + [f'from {self.progress:.0%}'] * (self.progress > 0))


LABELLED = ('labelled', 'labelled')
EVERY_TERM = dict(announced_share=0.5, loss_weights=dict(hole=0.3, consistency=1.0, cross_entropy=1.0, dice=1.0))
CASES = [
    Case('default', 'pretrain'),
    Case('default', 'pretrain', LABELLED),
    Case('default', 'pretrain', options=EVERY_TERM),
    Case('default', 'pretrain', LABELLED, EVERY_TERM),
    Case('default', 'pretrain', options=dict(dice_per_image=False, cutmix_share=0.0, min_confidence=0.7)),
    Case('default', 'pretrain', options=dict(gray_strength=0.0, loss_weights=dict(segment=0.5, deep=0.0))),
    Case('default', 'finetune'),
    Case('default', 'finetune', options=EVERY_TERM | dict(finetune_weights=dict(second_view=0.0))),
    Case('default', 'baseline', LABELLED),
    Case('default', 'refine', LABELLED),
    Case('default', 'refine', LABELLED, dict(dice_per_image=False)),
    Case('published', 'pretrain', ('labelled', 'unlabelled')),
    Case('published', 'pretrain', ('unlabelled', 'unlabelled')),
    Case('published', 'pretrain', LABELLED),
    Case('published', 'pretrain', options=dict(alternate=False)),
    Case('published', 'pretrain', options=dict(loss_weights=dict(segmentation_critic=0.0, feature=0.0))),
    Case('published', 'pretrain', options=dict(loss_weights=dict(image_critic=0.0, matching=0.0, gram=0.0))),
    Case('published', 'finetune', LABELLED),
    Case('published', 'baseline', LABELLED),
    Case('published', 'refine', LABELLED),
]
RIVALS = ('supervised', 'mean_teacher', 'ua_mt', 'ict', 'cps', 'urpc', 'sco_ssl', 'unimatch', 'bcp')


def rival_cases(name):
    "At the beginning and at half of the schedule, as published, and in shadow with another weight"
    batches = LABELLED if name == 'supervised' else ('mixed', 'mixed')
    in_shadow = dict(shadow_share=0.5, gray_strength=0.3)
    if name != 'supervised':
        in_shadow['weight'] = 30.0
    if name == 'unimatch':
        in_shadow['min_confidence'] = 0.3
    yield Case(name, 'train', batches)
    for options in ({}, dict(as_published=True), in_shadow):
        yield Case(name, 'train', batches, options, progress=0.5)


def all_cases():
    "Every case on every network; a network without style has no path length"
    cases = CASES + [case for name in RIVALS for case in rival_cases(name)]
    for preset in PRESETS:
        for case in cases:
            options = case.options
            if case.method == 'published' and preset == 'unet_small':
                weights = options.get('loss_weights', {}) | dict(path_length=0.0)
                options = options | dict(loss_weights=weights)
            yield Case(case.method, case.phase, case.batches, options, case.progress, preset)


# What both sides are given


def make_images(step):
    "Eight images with a label each, the same images in shadow with holes, style noise; the same at every call"
    generator = torch.Generator().manual_seed(100 + step)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    smooth = torch.nn.functional.interpolate(draw(BATCH_SIZE, 1, 5, 5), (SIZE, SIZE), mode='bicubic')[:, 0]
    label = torch.bucketize(smooth, torch.tensor([0.2, 0.6, 1.1]))
    image = (0.1 + 0.22 * label + 0.08 * draw(BATCH_SIZE, SIZE, SIZE)).clamp(0, 1)[:, None]
    columns = torch.rand(BATCH_SIZE, 1, 1, SIZE, generator=generator) < 0.25
    shadowed = torch.where(columns, image * 0.2, image)
    valid = torch.ones_like(image)
    for i in range(BATCH_SIZE):
        valid[i, :, 4 * i : 4 * i + 20, 20 + i : 45] = 0.0
    return dict(image=image, label=label, shadowed=shadowed, valid=valid, noise=draw(BATCH_SIZE, 32))


def make_batch(kind, step, shadow_mode):
    "The images of a step, of which so many are labelled, as a loader would bring them"
    batch = SimpleNamespace(**make_images(step))
    batch.n_labelled = dict(mixed=BATCH_SIZE // 2, labelled=BATCH_SIZE, unlabelled=0)[kind]
    batch.label[batch.n_labelled :] = UNLABELLED
    if shadow_mode == 'none':
        batch.shadowed, batch.valid = batch.image, torch.ones_like(batch.valid)
    return batch


class Draws:
    "The draws whose order was changed on purpose, from a generator of its own: no other draw is touched."

    def __init__(self):
        self.generator = torch.Generator()

    def restart(self, step):
        self.generator.manual_seed(200 + step)

    def boxes(self, n, smallest=12, largest=40):  # (n,1,SIZE,SIZE) bool
        "One box an image"
        masks = torch.zeros(n, 1, SIZE, SIZE, dtype=torch.bool)
        for mask in masks:
            height, width = torch.randint(smallest, largest + 1, (2,), generator=self.generator).tolist()
            top, left = torch.randint(0, SIZE - largest, (2,), generator=self.generator).tolist()
            mask[:, top : top + height, left : left + width] = True
        return masks

    def second_views(self):
        "Which half of the images is seen twice, numbers that decide whose shadow is announced, whose boxes are pasted"
        order = torch.randperm(BATCH_SIZE, generator=self.generator)
        n = BATCH_SIZE // 2
        chosen, others = order[:n].sort().values, order[n:]
        announced = torch.rand(n, 1, 1, 1, generator=self.generator)
        donors = torch.randperm(BATCH_SIZE, generator=self.generator)
        return chosen, others, announced, donors


class Loader(list):
    "Two batches that are there already, and what the old trainer asks of a loader."

    pools, bs, n_labelled = ((), ()), BATCH_SIZE, BATCH_SIZE


class Loaders(list):
    "Training batches, and none for validation."

    device, n_inp = torch.device('cpu'), 3

    @property
    def train(self):
        return self[0]


def random_weights(module, generator):
    "Changes the weights in place: none is left at 0, and batch normalisation remembers something"
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
        for name, buffer in module.named_buffers():
            if name.endswith('running_mean'):
                buffer.add_(0.1 * torch.randn(buffer.shape, generator=generator))
            elif name.endswith('running_var'):
                buffer.mul_(0.5 + torch.rand(buffer.shape, generator=generator))


# The old checkout

TERMS = dict(
    ce='cross_entropy',
    shadow='second_view',
    adv_img='image_critic',
    adv_seg='segmentation_critic',
    match='matching',
    path='path_length',
    img_d='image_critic_loss',
    seg_d='segmentation_critic_loss',
)
REFINE_TERMS = dict(coarse_segment='coarse', segment='refined')
OPTIONS = dict(
    shadow_mode='shadow',
    announced_share='told',
    cutmix_share='mix',
    gray_strength='photometric',
    dice_per_image='per_image',
    min_confidence='tau',
    alternate='separate',
)
STAGES = dict(baseline='supervised', train='rival')


class OldKit:
    "Flat modules, a `Learner` with callbacks, terms by name."

    writes_weights = True

    def term(self, name, phase):
        "The new name of a term"
        return (REFINE_TERMS if phase == 'refine' else TERMS).get(name, name)

    def config(self, case):
        from sabr.config import make_config

        old_terms = {new: old for old, new in TERMS.items()}
        params = dict(preset=case.preset, image_size=SIZE, batch_size=BATCH_SIZE, steps=STEPS)
        if case.method in RIVALS:
            common = ('as_published', 'gray_strength')
            params |= {OPTIONS.get(k, k): v for k, v in case.options.items() if k in common}
            own = dict(shadow_share='shadow', min_confidence='tau')
            rival_options = {own.get(k, k): v for k, v in case.options.items() if k not in common}
            return make_config(rival=case.method, rival_options=rival_options, **params)
        for name, value in case.options.items():
            if isinstance(value, dict):
                value = {old_terms.get(term, term): weight for term, weight in value.items()}
            params[OPTIONS.get(name, name)] = value
        return make_config(recipe=case.method, **params)

    def stage(self, case, cfg):
        "What the old stage hands to its training: network, weights of terms, callbacks, schedule"
        from sabr import stages

        caught = {}

        def train_stage(cfg, run, name, model, weights, lr, unlabelled=False, shadow='none', cbs=(), **more):
            how = dict(loss=None, schedule={}, separate=False, cbs=cbs) | more
            caught.update(how, name=name, model=model, weights=weights, lr=lr, unlabelled=unlabelled, shadow=shadow)
            return {}

        def load_model(path, n_classes=None):
            return stages.new_network(cfg, run), {}

        run = SimpleNamespace(cases=SimpleNamespace(attrs=dict(classes=range(N_CLASSES))), out='')
        with (
            patch.object(stages, 'train_stage', train_stage),
            patch.object(stages, 'load_model', load_model),
            patch.object(stages, 'inpainting_quality', lambda cfg, run: {}),
        ):
            stages.STAGES[STAGES.get(case.phase, case.phase)].__wrapped__(cfg, run)
        return SimpleNamespace(**caught)

    def learner(self, case, watch):
        "Learner, parts whose weights are compared, settings, mode of shadows"
        from sabr.train import make_learner, make_nets

        cfg = self.config(case)
        stage = self.stage(case, cfg)
        how = {k: v for k, v in stage.schedule.items() if k in ('betas', 'critic_lr', 'seen')}
        nets = make_nets(stage.model, SIZE, stage.weights)
        learn = make_learner(
            stage.model,
            Loaders(),
            stage.weights,
            nets,
            stage.lr,
            half_life=cfg.half_life,
            per_image=cfg.per_image,
            loss=stage.loss,
            cbs=[watch, *stage.cbs],
            **how,
        )
        learn.ema.before_fit()
        self.step_once(learn)
        self.start(learn, case, cfg.stage_steps(stage.name))
        settings = dict(
            steps=cfg.stage_steps(stage.name),
            warmup=stage.schedule.get('warmup', 0.0),
            lr_end=stage.schedule.get('end', 0.02),
            averaged_before=stage.schedule.get('seen', 0),
            unlabelled=bool(stage.unlabelled),
            alternate=stage.separate,
            max_hole=cfg.max_hole if stage.shadow in ('freeform', 'mixed') else 1.0,
        )
        return learn, self.parts(learn, nets), settings, stage.shadow

    def step_once(self, learn):
        "Callbacks without `after_step` found that of the model, because fastai passes on what it does not know"
        for callback in learn.cbs:
            if not hasattr(type(callback), 'after_step'):
                callback.__dict__['after_step'] = lambda: None

    def start(self, learn, case, steps):
        "As if a share of the schedule were done"
        done = round(case.progress * steps)
        learn.loss_func.step = done
        if case.method in RIVALS:
            learn.model.step.fill_(done)

    def parts(self, learn, nets):
        model, averaged = learn.model, learn.ema.averaged.module
        is_rival = hasattr(model, 'scored')
        parts = dict(network=model.net if is_rival else model, averaged=averaged.scored() if is_rival else averaged)
        parts |= {name: getattr(model, name, None) for name in ('teacher', 'second', 'heads') if is_rival}
        parts |= dict(image_critic=nets.img_d, segmentation_critic=nets.seg_d, path_length=nets.path)
        return {name: part for name, part in parts.items() if part is not None}

    def batch(self, batch):
        return batch.shadowed, batch.valid, batch.noise, batch.image, batch.label, batch.valid

    def terms(self, learn):
        return learn.loss_func.parts

    def prepared(self, draws):
        "Patches that replace draws"
        from sabr import losses, rivals, semi

        own_matching = losses.match

        def matching(terms):
            "The critic answers about predictions first; the answer is kept"
            assert terms.seg_fake is not None
            return own_matching(terms)

        def boxes(n, size, *args, **kwargs):
            return draws.boxes(n).double()

        def box(image):
            return draws.boxes(1).double()

        own_views = semi.Student.views

        def views(student, *args):
            chosen, _, announced, donors = draws.second_views()
            chance = torch.ones(BATCH_SIZE).index_fill(0, chosen, 0.0)
            with (
                patch.object(torch, 'rand', side_effect=[chance, announced]),
                patch.object(torch, 'randperm', side_effect=[donors]),
            ):
                return own_views(student, *args)

        yield patch.dict(losses.TERMS, match=matching)
        yield patch.object(semi, 'boxes', boxes)
        yield patch.object(semi.Student, 'views', views)
        yield patch.object(rivals, 'cutmix_boxes', boxes)
        yield patch.object(rivals.BCP, 'box', staticmethod(box))


# The new checkout


class NewKit:
    "A class a method, a trainer whose step is written out."

    writes_weights = False

    def term(self, name, phase):
        return name

    def learner(self, case, watch):
        "Learner, parts whose weights are compared, settings, mode of shadows"
        from sabr.nets.presets import make_network, preset
        from sabr.run.config import make_config
        from sabr.train.learner import Trainer, TrainSettings

        def new_network():
            return make_network(preset(case.preset, n_classes=N_CLASSES))

        shape = dict(preset=case.preset, image_size=SIZE, batch_size=BATCH_SIZE, steps=STEPS)
        cfg = make_config(method=case.method, **shape, **case.options)
        phase = cfg.phases[case.phase]
        network = new_network()
        if phase.starts_from:
            network = phase.method.prepare_network(network, SIZE)
        method = phase.method(network, phase, SIZE, new_network)
        learn = Trainer(Loaders(), method, phase, TrainSettings(average_half_life=cfg.average_half_life), [watch])
        learn.steps_done = round(case.progress * phase.steps)
        settings = dict(
            steps=phase.steps,
            warmup=phase.warmup_share,
            lr_end=phase.lr_end,
            averaged_before=phase.averaged_before,
            unlabelled=phase.unlabelled_share > 0,
            alternate=phase.alternate,
            max_hole=phase.max_hole_share if phase.shadow_mode in ('freeform', 'mixed') else 1.0,
        )
        return learn, self.parts(learn, method), settings, phase.shadow_mode

    def parts(self, learn, method):
        parts = dict(network=method.network, averaged=learn.average.network)
        parts |= {name: getattr(method, name, None) for name in ('teacher', 'second', 'heads', 'path_length')}
        if hasattr(method, 'critics'):
            parts |= dict(method.critics.members)
        return {name: part for name, part in parts.items() if part is not None}

    def batch(self, batch):
        from sabr.train.phase import Batch

        return Batch(**vars(batch))

    def terms(self, learn):
        return learn.terms

    def prepared(self, draws):
        "Patches that replace draws"
        from sabr.methods import bcp, default, unimatch

        def boxes(n, size, *args):
            return draws.boxes(n)

        def box(method, image):
            return draws.boxes(1)

        own_views = default.second_views

        def second_views(*args):
            chosen, others, announced, donors = draws.second_views()
            with (
                patch.object(torch, 'rand', side_effect=[announced]),
                patch.object(torch, 'randperm', side_effect=[torch.cat([chosen, others]), donors]),
            ):
                return own_views(*args)

        yield patch.object(default, 'cutmix_boxes', boxes)
        yield patch.object(default, 'second_views', second_views)
        yield patch.object(unimatch, 'boxes_by_area', boxes)
        yield patch.object(bcp.BCP, 'box', box)


# One side: train, and write down the numbers


def new_name(name):
    "Of a weight; the critics' layers were renamed"
    return '.'.join(dict(a='conv1', b='conv2').get(part, part) for part in name.split('.'))


def recorder(kit, case, draws):
    "A callback that seeds before each step, and notes terms, gradients and weights"
    from fastai.callback.core import Callback

    class Watch(Callback):
        order = -50  # before all that draw

        def __init__(self):
            self.found, self.parts = {}, {}

        def note(self, kind, name, value):
            self.found[f'{kind} {name}'] = np.array(value.detach() if hasattr(value, 'detach') else value, float)

        def before_batch(self):
            draws.restart(self.iter)
            torch.manual_seed(300 + self.iter)
            np.random.seed(300 + self.iter)

        def after_backward(self):
            for part, module in self.parts.items():
                for name, weight in module.named_parameters():
                    if weight.requires_grad and weight.grad is not None:
                        self.note('gradient', f'{part}.{new_name(name)} in step {self.iter}', weight.grad)

        def after_batch(self):
            self.note('term', f'loss in step {self.iter}', self.learn.loss)
            for name, value in kit.terms(self.learn).items():
                self.note('term', f'{kit.term(name, case.phase)} in step {self.iter}', value)
            for part, module in self.parts.items():
                for name, value in module.state_dict().items():
                    self.note('weight', f'{part}.{new_name(name)} after step {self.iter}', value)

    return Watch()


def begin_with(kit, parts, path):
    "The same weights on both sides: the old side draws and writes them, the new one reads them"
    if kit.writes_weights:
        generator = torch.Generator().manual_seed(400)
        for part in parts.values():
            random_weights(part, generator)
        weights = {}
        for part, module in parts.items():
            weights |= {f'{part}.{new_name(name)}': value for name, value in module.state_dict().items()}
        torch.save(weights, path)
        return
    weights = torch.load(path)
    for part, module in parts.items():
        start = f'{part}.'
        module.load_state_dict({k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)})


def train(kit, case, weights_path):
    "Two steps; returns what was noted"
    draws = Draws()
    watch = recorder(kit, case, draws)
    torch.manual_seed(0)
    learn, watch.parts, settings, shadow_mode = kit.learner(case, watch)
    begin_with(kit, watch.parts, weights_path)
    batches = [kit.batch(make_batch(kind, step, shadow_mode)) for step, kind in enumerate(case.batches)]
    learn.dls[:] = [Loader(batches), Loader()]
    learn.metrics = []
    learn.create_opt()
    for group in learn.opt.opt.param_groups:
        group['eps'] = EPSILON
    settings |= dict(lr=group['lr'], beta1=group['betas'][0], beta2=group['betas'][1])
    settings['shadows'] = ('none', 'acoustic', 'freeform', 'mixed').index(shadow_mode)
    for name, value in settings.items():
        watch.note('setting', name, value)
    with ExitStack() as stack:
        for change in kit.prepared(draws):
            stack.enter_context(change)
        for silence in (learn.no_bar(), learn.no_logging()):
            stack.enter_context(silence)
        learn.fit(1)
    return watch.found


def write_side(side, folder):
    "Train all cases and write a file each"
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.double)
    torch.Tensor.float = torch.Tensor.double
    kit = dict(old=OldKit, new=NewKit)[side]()
    for number, case in enumerate(all_cases()):
        try:
            found = train(kit, case, folder / f'{number}.pt')
        except Exception as error:
            raise SystemExit(f'{case}: {type(error).__name__}: {error}') from error
        np.savez(folder / f'{number}.{side}.npz', **found)


# Both sides: run, compare, print


def run_side(side, checkout, folder):
    "This tool in a process of its own, with the package of that checkout"
    path = str(Path(checkout).resolve())
    one_thread = dict(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')
    environment = os.environ | one_thread | dict(PYTHONPATH=path, PYTHONWARNINGS='ignore')
    subprocess.run([sys.executable, __file__, '--side', side, str(folder)], env=environment, check=True)


def largest_difference(old, new):
    "Infinite where the shapes differ or where a number is no number"
    if old is None or new is None or old.shape != new.shape:
        return np.inf
    difference = np.abs(old - new).max(initial=0.0)
    return np.inf if np.isnan(difference) else difference


def compare(number, folder):
    "Kind -> list of (difference, name) of one case"
    old, new = (np.load(folder / f'{number}.{side}.npz') for side in ('old', 'new'))
    found = {kind: [] for kind in KINDS}
    for name in sorted(set(old) | set(new)):
        pair = [numbers[name] if name in numbers else None for numbers in (old, new)]
        found[name.split()[0]].append((largest_difference(*pair), name))
    return found


def print_table(rows):
    "One line for each method and phase"
    print(f'{"method":14}{"phase":10}{"cases":>6}{"terms":>7}' + ''.join(f'{kind + "s":>12}' for kind in KINDS))
    for (method, phase), cases in rows.items():
        worst = [max(difference for found in cases for difference, _ in found[kind]) for kind in KINDS]
        terms = sum(len(found['term']) for found in cases)
        print(f'{method:14}{phase:10}{len(cases):6}{terms:7}' + ''.join(f'{value:12.1e}' for value in worst))


def main(old_checkout, new_checkout='.'):
    "Returns the number of differences"
    rows, faults = {}, []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        run_side('old', old_checkout, folder)
        run_side('new', new_checkout, folder)
        for number, case in enumerate(all_cases()):
            found = compare(number, folder)
            rows.setdefault((case.method, case.phase), []).append(found)
            differing = [(d, name) for kind in KINDS for d, name in found[kind] if d > TOLERANCE]
            faults += [f'{case}: {name} differs by {d:.1e}' for d, name in differing[:3]]
            faults += [f'{case}: {len(differing)} numbers differ'] * (len(differing) > 3)
    print_table(rows)
    print('\n'.join(faults))
    return len(faults)


if __name__ == '__main__':
    if sys.argv[1:2] == ['--side']:
        write_side(sys.argv[2], Path(sys.argv[3]))
    elif len(sys.argv) not in (2, 3) or '-h' in sys.argv or '--help' in sys.argv:
        raise SystemExit(__doc__)
    else:
        raise SystemExit(main(*sys.argv[1:]) > 0)
