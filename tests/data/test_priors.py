"""The kernel basis and the degradation prior."""

import math

import pytest
import torch

from lightbsr_data import degradation_prior, gaussian_kernels, get_setting, kernel_basis


def captured_energy(kernels: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """The share of each kernel's energy that the basis keeps."""
    flat = kernels.flatten(1).double()
    return (flat @ basis.double()).square().sum(1) / flat.square().sum(1)


def test_basis_is_orthonormal():
    basis = kernel_basis()
    assert basis.shape == (441, 15) and basis.dtype == torch.float32
    torch.testing.assert_close(basis.T @ basis, torch.eye(15), rtol=0, atol=1e-5)


def test_signs_are_fixed():
    """An eigenvector's sign is arbitrary: ours has its largest entry positive, on every machine."""
    for column in kernel_basis().T:
        assert column[column.abs().argmax()] > 0


def test_captured_energy_of_isotropic_kernels_is_that_of_the_released_basis(golden):
    sigma = torch.tensor([0.6, 1.2, 2.4, 3.6], dtype=torch.float64)
    ours = captured_energy(gaussian_kernels(sigma, sigma, 0 * sigma), kernel_basis())
    expected = golden("pca_projector")["captured_energy_iso"].flatten()
    assert (ours - expected).abs().max() < 0.01


def random_kernels(number: int, seed: int) -> torch.Tensor:
    """Kernels of the population that the basis is made for, drawn one by one."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(number, 3, generator=generator, dtype=torch.float64).tolist()
    rows = []
    for a, b, c in draws:
        variance_1 = 0.1 + (10.1 - 0.1) * a
        variance_2 = 0.1 + (variance_1 - 0.1) * b
        rows.append((math.sqrt(variance_1), math.sqrt(variance_2), math.pi * c))
    return gaussian_kernels(*torch.tensor(rows, dtype=torch.float64).T)


def test_basis_is_as_good_as_principal_components_of_other_draws():
    train, test = random_kernels(1500, seed=5), random_kernels(500, seed=6)
    other = torch.linalg.svd(train.flatten(1), full_matrices=False).Vh[:15].T  # uncentred
    energy, reference = captured_energy(test, kernel_basis()), captured_energy(test, other)
    assert energy.mean() == pytest.approx(float(reference.mean()), abs=2e-3)
    assert reference.mean() > 0.98
    # The leading direction is well determined: the same up to its sign.
    assert abs(float(kernel_basis()[:, 0].double() @ other[:, 0])) > 0.995


def test_prior_of_the_iso_setting_is_the_projection_alone():
    kernels, basis = torch.rand(3, 21, 21), kernel_basis()
    prior = degradation_prior(kernels, torch.tensor([1.0, 2.0, 3.0]), basis=basis, setting=get_setting("iso"))
    assert prior.shape == (3, 15)
    for b in range(3):
        for k in range(15):
            row_by_row = sum(kernels[b, y, x] * basis[21 * y + x, k] for y in range(21) for x in range(21))
            torch.testing.assert_close(prior[b, k], row_by_row, rtol=1e-3, atol=1e-3)


def test_prior_with_noise_repeats_the_level_three_times():
    kernels, basis = torch.rand(3, 21, 21), kernel_basis()
    sigma = torch.tensor([0.0, 12.5, 25.0])
    prior = degradation_prior(kernels, sigma, basis=basis, setting=get_setting("aniso_noise"))
    assert prior.shape == (3, 18)
    without = degradation_prior(kernels, sigma, basis=basis, setting=get_setting("iso"))
    assert torch.equal(prior[:, :15], without)
    for k in (15, 16, 17):
        assert torch.equal(prior[:, k], sigma)
