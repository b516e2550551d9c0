"""Training networks with their quantizers, epoch by epoch."""

import copy
import math
from typing import get_args

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from bitfront.energy import EnergyModel, load_table
from bitfront.models.config import OptimizerName
from bitfront.models.images import ImageSet
from bitfront.models.qat.config import QatSettings
from bitfront.models.qat.learned import LearnedSigmoid
from bitfront.models.qat.network import TrainableNetwork, batch_norms
from bitfront.models.qat.trainer import Trainer, _Sums
from bitfront.models.qat.widths import SigmoidWidths
from bitfront.searchers.checkpoint import Checkpoint
from bitfront.spaces import BitSpace, ModelError
from tests.models.qat.conftest import case_of

OPTIMIZERS = get_args(OptimizerName)


def learned_for(case, *, fractional=False, table="eqat-glsvlsi25", bits=5.3):
    energy = EnergyModel(load_table(table), case.layers)
    space = BitSpace.build(case.layers, first_last=None)
    widths = SigmoidWidths(space, bits)
    return LearnedSigmoid(widths, energy.price_torch, energy.w8a8, fractional=fractional)


def trainer_for(case, *, seed=0, learned=True, teacher=None, images=None, **chosen):
    options = {"epochs": 4, "batch_size": 16, "lr": 1e-2, "range_lr": 1e-2, **chosen}
    settings = QatSettings(**options)
    network = TrainableNetwork(case.model, case.reference, settings)
    trainer = Trainer(
        network, images or case.images, case.calibration, settings, seed=seed, teacher=teacher
    )
    if learned:
        widths = learned_for(case, fractional=learned == "fractional")
        trainer.learn_widths(widths, optimizer="adam", lr=0.05, epochs=settings.epochs - 1)
    else:
        trainer.hold_widths(case.uniform(4))
    return trainer


def beta(energy):
    return 0.5


def kept(state):
    """Return a state after it was written and read again."""
    checkpoint = Checkpoint(state, (), {}, None, {}, 0, 0, 0.0)
    return Checkpoint.from_bytes(checkpoint.to_bytes()).state


def assert_same_state(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, np.ndarray):
            assert value.dtype == second[name].dtype, name
            assert np.array_equal(value, second[name]), name
        else:
            assert value == second[name], name


# The same again


@pytest.mark.parametrize("augment", ["none", "crop-flip"])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(block, augment):
    states, reports = [], []
    for seed in (3, 3, 4):
        torch.rand(7)  # whoever else draws from the global generator
        trainer = trainer_for(block, seed=seed, augment=augment)
        reports.append([trainer.run_epoch(beta) for _ in range(2)])
        states.append(trainer.state())
    assert reports[0] == reports[1] != reports[2]
    assert_same_state(states[0], states[1])
    assert not np.array_equal(
        states[0]["network/network.fc.inner.weight"], states[2]["network/network.fc.inner.weight"]
    )


def test_the_global_generator_and_the_number_of_threads_are_left_as_they_were(block):
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    trainer_for(block, threads=2).run_epoch()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def interrupted(make, at, hold=None):
    """Return the states of a training in one piece, and of one that went on from its state."""
    whole = make()
    for epoch in range(4):
        if hold is not None and epoch == 3:
            whole.hold_widths(hold)
        if epoch == at:
            state = kept(whole.state())
        whole.run_epoch(beta)
    again = make()
    if hold is not None and at > 3:
        again.hold_widths(hold)
    again.restore(state)
    for epoch in range(at, 4):
        if hold is not None and epoch == 3:
            again.hold_widths(hold)
        again.run_epoch(beta)
    return whole, again


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_restored_it_goes_on_as_if_it_had_not_stopped(block, optimizer):
    whole, again = interrupted(
        lambda: trainer_for(block, optimizer=optimizer, lr=1e-3, augment="crop-flip"),
        at=2,
        hold=block.uniform(3),
    )
    assert_same_state(whole.state(), again.state())


@pytest.mark.parametrize(
    "chosen",
    [
        {"coreset_fraction": 0.5, "coreset_every": 2},
        {"arithmetic": "bfloat16"},
        {"weight_ranges": "minmax", "activation_ranges": "minmax"},
        {"activation_ranges": "pact", "schedule": "constant"},
        {"learned": False, "alpha": 0.0, "weight_decay": 1e-2},
        {"learned": "fractional"},
    ],
    ids=lambda chosen: " ".join(map(str, chosen.values())),
)
@pytest.mark.parametrize("at", [1, 3])
def test_so_it_does_with_all_else_there_is_to_set(block, chosen, at):
    whole, again = interrupted(lambda: trainer_for(block, **chosen), at=at)
    assert_same_state(whole.state(), again.state())
    assert whole.coreset.images_scored == again.coreset.images_scored
    ours, theirs = (t.trained(block.uniform(4)).digest for t in (whole, again))
    assert ours == theirs


def test_so_it_does_with_attention_and_dropout():
    case = case_of("vit")
    whole, again = interrupted(lambda: trainer_for(case), at=2)
    assert_same_state(whole.state(), again.state())


# What is computed


def test_alpha_of_zero_saves_the_second_pass(block):
    for alpha, passes in ((0.0, 1), (0.5, 2)):
        report = trainer_for(block, alpha=alpha).run_epoch(beta)
        assert report.images == report.images_backward == 64
        assert report.images_forward == passes * 64
        assert (report.kl > 0) == (alpha > 0)


def test_choosing_a_coreset_is_counted_and_epochs_are_shorter(block):
    trainer = trainer_for(block, coreset_fraction=0.5, coreset_every=2, alpha=0.5)
    reports = [trainer.run_epoch(beta) for _ in range(3)]
    assert [r.images for r in reports] == [32, 32, 32]
    assert [r.images_forward for r in reports] == [64 + 128, 64, 64 + 128]
    assert trainer.coreset.images_left_out == 96


def test_learning_rates_follow_the_schedule(block):
    rates = {"weights": [], "ranges": [], "widths": []}
    trainer = trainer_for(block, lr=1e-2, range_lr=1e-3, alpha=0.0)

    def noting(energy):
        for name, optimizer in trainer._optimizers.items():
            rates[name].append((trainer.position, optimizer.param_groups[0]["lr"]))
        return 0.0

    for _ in range(3):
        trainer.run_epoch(noting)
    assert [at for at, _ in rates["weights"]] == [step / 4 for step in range(12)]
    for name, lr, epochs in (("weights", 1e-2, 4), ("ranges", 1e-3, 4), ("widths", 0.05, 3)):
        expected = [lr * 0.5 * (1 + math.cos(math.pi * at / epochs)) for at, _ in rates[name]]
        assert [rate for _, rate in rates[name]] == pytest.approx(expected)


def test_coresets_do_not_change_the_schedule(block):
    trainer = trainer_for(block, coreset_fraction=0.5)
    positions = []
    trainer.run_epoch(lambda energy: positions.append(trainer.position) or 0.0)
    assert positions == [0.0, 0.5]


def test_a_teacher_of_its_own_is_used_and_stays(block):
    teacher = copy.deepcopy(block.model)
    before = copy.deepcopy(teacher.state_dict())
    trainer = trainer_for(block, teacher=teacher)
    other = trainer_for(block)
    assert trainer.run_epoch(beta).kl != other.run_epoch(beta).kl
    assert all(torch.equal(before[name], t) for name, t in teacher.state_dict().items())


@pytest.mark.parametrize("alpha", [0.0, 0.8])
def test_the_gradient_to_theta_is_equation_21(block, alpha):
    """In float64: what CE and KL give through the step sizes, and the exact energy."""
    weight = 0.3
    trainer = trainer_for(block, learned="fractional", alpha=alpha, batch_size=64, lr=1e-30)
    trainer.network.double()
    learned = trainer._learned
    learned.double()
    x, labels = block.images.batch(slice(0, 64))
    x = x.double()
    trainer.network.train()
    twin = copy.deepcopy(trainer.network)
    with twin.full_precision(), torch.no_grad():
        full = twin(x).log_softmax(1)
    # CE and KL by the real widths themselves
    bits = [b.detach().clone().requires_grad_() for b in learned.widths()]
    twin.set_widths(*(b.unbind() for b in bits))
    log_q = twin(x).log_softmax(1)
    kl = (log_q.exp() * (log_q - full)).sum(1).mean()
    by_bits = torch.stack(torch.autograd.grad(cross_entropy(log_q, labels) + alpha * kl, bits))
    # the energy by equation 20, relative to uniform 8 bit
    energy = EnergyModel(load_table("eqat-glsvlsi25"), block.layers)
    by_energy = []
    for row, operand in enumerate(("weight", "activation")):
        moved = []
        for side in (-1e-5, 1e-5):
            rows = [b.detach().clone() for b in bits]
            moved.append([])
            for index in range(len(block.layers)):
                changed = [r.clone() for r in rows]
                changed[row][index] += side
                moved[-1].append(energy.price_torch(*changed).item())
        by_energy.append([(b - a) / 2e-5 / energy.w8a8 for a, b in zip(*moved, strict=True)])
        assert all(slope > 0 for slope in by_energy[-1]), operand
    total = by_bits + weight * torch.tensor(by_energy, dtype=torch.float64)
    share = torch.sigmoid(learned.widths.theta.detach())
    by_variable = []
    for variable in learned.widths.learned:
        rows = [(0 if s.operand == "weight" else 1, s.layer) for s in variable.slots]
        by_variable.append(sum(total[row, layer] for row, layer in rows))
    expected = torch.stack(by_variable) * (8 - 2) * share * (1 - share)
    # and what a step of the trainer has
    trainer._step(x, labels, lambda energy: weight, _Sums(), "here")
    found = learned.widths.theta.grad
    # The trainer takes logits to float32 for the losses.
    assert torch.allclose(found, expected, rtol=2e-4, atol=1e-7)


def test_the_energy_of_the_paper_has_the_gradient_of_equation_20(block):
    """Where weights and activations of a layer have one width q: 2 MACs E_MAC q + data E_access."""
    table = load_table("eqat-glsvlsi25")
    energy = EnergyModel(table, block.layers)
    bits = torch.full((len(block.layers),), 5.25, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(energy.price_torch(bits, bits), bits)
    (other,) = torch.autograd.grad(energy.price_torch(2 * bits, 2 * bits), bits)
    macs = torch.tensor([layer.macs for layer in block.layers], dtype=torch.float64)
    # The slope is linear in q: a + c q, and its c is to the MACs as everywhere.
    per_mac = (other / 2 - slope) / 5.25 / macs
    assert torch.allclose(per_mac, per_mac[0].expand_as(per_mac), rtol=1e-9)
    assert (slope - per_mac * macs * 5.25 > 0).all()


def test_the_report_says_what_happened(block):
    trainer = trainer_for(block)
    energies = []
    report = trainer.run_epoch(lambda energy: energies.append(energy) or 0.25)
    assert (report.epoch, trainer.epoch, len(energies)) == (1, 1, 4)
    assert report.energy == energies[-1]
    assert report.beta == 0.25
    assert 0 <= report.accuracy <= 1
    held = trainer_for(block, learned=False).run_epoch(beta)
    assert math.isnan(held.energy)
    assert held.beta == 0


def test_the_weight_of_the_energy_moves_the_widths(block):
    found = []
    for weight in (0.0, 100.0):
        trainer = trainer_for(block, alpha=0.0)
        for _ in range(2):
            trainer.run_epoch(lambda energy, weight=weight: weight)
        found.append(trainer._learned.energy().item())
    assert found[1] < found[0] - 0.02


@pytest.mark.parametrize("chosen", [{}, {"arithmetic": "bfloat16"}], ids=["float32", "bfloat16"])
def test_it_learns(block, chosen):
    trainer = trainer_for(block, learned=False, epochs=12, **chosen)
    reports = [trainer.run_epoch() for _ in range(12)]
    assert reports[-1].cross_entropy < 0.7 * reports[0].cross_entropy
    assert reports[-1].accuracy > 0.7


# What comes of it


@pytest.mark.parametrize("learned", [False, "rounded", "fractional"])
def test_batch_norms_are_estimated_at_the_widths_of_deployment(block, learned):
    trainer = trainer_for(block, learned=learned)
    trainer.run_epoch(beta)
    norms = batch_norms(trainer.network)
    for bits in (4, 2):
        before = [norm.running_mean.clone() for norm in norms]
        network = trainer.trained(block.uniform(bits))
        pairs = zip(norms, before, strict=True)
        assert not any(torch.equal(norm.running_mean, mean) for norm, mean in pairs)
        assert [norm.momentum for norm in norms] == [0.1] * len(norms)
        # They are the statistics of the calibration images at these widths.
        trainer.network.eval()
        trainer.network.set_allocation(block.uniform(bits))
        first = trainer.network.network.stem(block.calibration[0][0])
        found = network.arrays["state/bn1.running_mean"]
        assert torch.allclose(torch.from_numpy(found), first.mean((0, 2, 3)), atol=1e-5)
        assert np.array_equal(found, norms[0].running_mean.numpy())
    assert trainer.images_estimated == 32


def test_without_batch_norms_nothing_is_estimated():
    assert trainer_for(case_of("vit"), learned=False).images_estimated == 0


def test_what_is_trained_is_a_copy(block):
    trainer = trainer_for(block, learned=False)
    trainer.run_epoch()
    network = trainer.trained(block.uniform(4))
    before = {name: array.copy() for name, array in network.arrays.items()}
    trainer.run_epoch()
    assert all(np.array_equal(array, before[name]) for name, array in network.arrays.items())


# What goes wrong


def test_a_learning_rate_that_is_too_large_is_said_to_be(block):
    trainer = trainer_for(block, lr=1e30, optimizer="sgd", learned=False)
    said = r"training diverged: .* in step [2-4] of 4 of epoch 1; lower lr \(now 1e\+30\)"
    with pytest.raises(ModelError, match=said):
        trainer.run_epoch()


@pytest.mark.parametrize(
    ("alpha", "what"), [(0.5, "the KL divergence is nan"), (0.0, "a gradient is not finite")]
)
def test_an_image_that_is_not_finite_names_term_step_and_epoch(block, alpha, what):
    """Quantizers clip what is infinite, so that the cross-entropy stays finite."""
    pixels = block.images.images.copy()
    pixels[5] = np.inf
    images = ImageSet(pixels, block.images.labels, block.images.mean, block.images.std)
    trainer = trainer_for(block, images=images, alpha=alpha)
    with pytest.raises(ModelError, match=what + " in step [1-4] of 4 of epoch 1; lower lr"):
        trainer.run_epoch(beta)


def test_weights_that_are_not_finite_are_named_by_the_cross_entropy(block):
    trainer = trainer_for(block, learned=False)
    trainer.run_epoch()
    trainer.network.network.fc.inner.bias.data[0] = torch.nan
    with pytest.raises(ModelError, match="the cross-entropy is nan in step 1 of 4 of epoch 2"):
        trainer.run_epoch()


def test_a_teacher_that_is_not_finite_is_named_by_its_term(block):
    teacher = copy.deepcopy(block.model)
    teacher.fc.bias.data[0] = torch.nan
    trainer = trainer_for(block, teacher=teacher)
    with pytest.raises(ModelError, match="the KL divergence is nan in step 1 of 4 of epoch 1"):
        trainer.run_epoch(beta)


def test_a_weight_of_the_energy_that_is_not_finite_is_found(block):
    trainer = trainer_for(block)
    with pytest.raises(ModelError, match="a gradient is not finite in step 1 of 4 of epoch 1"):
        trainer.run_epoch(lambda energy: math.inf)


def test_without_widths_it_does_not_train(block):
    settings = QatSettings(batch_size=16)
    trainer = Trainer(block.trainable(), block.images, block.calibration, settings, seed=0)
    with pytest.raises(ModelError, match="needs widths, learned or held"):
        trainer.run_epoch()


def test_fewer_images_than_a_batch_are_one_batch(block):
    trainer = trainer_for(block, images=block.images.beginning(10), learned=False)
    assert trainer.steps_per_epoch == 1
    assert trainer.run_epoch().images == 10
