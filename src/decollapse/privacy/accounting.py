"""The epsilon of a run whose cohorts are secret, by Google's `dp-accounting`.

Who does not know whether a client was in a cohort learns less of it: privacy is amplified by sampling. Cohorts here
have a fixed size and are drawn without replacement: Wang, Balle, Kasiviswanathan, "Subsampled Renyi Differential
Privacy and Analytical Moments Accountant", AISTATS 2019, https://arxiv.org/abs/1808.00087. Their neighbours have one
client's update *replaced*, by which the clipped sum changes by 2 S, not S; this is what the bound is proved for, and
several times larger than the numbers of papers that account for fixed cohorts as if clients were sampled one by one.

Needs the extra `privacy`: `pip install 'decollapse[privacy]'`. It was chosen over Opacus' accountants, which know
sampling one by one alone.
"""

from __future__ import annotations


def epsilon_of_secret_cohorts(
    noise_multiplier: float, *, rounds: int, num_clients: int, cohort_size: int, delta: float = 1e-5
) -> float:
    """The epsilon of `PrivateMean` after so many rounds; an upper bound.

    Towards somebody who sees every model, and must not know the seed of the run: from a seed follow the cohorts.

    Args:
        noise_multiplier: z, > 0.
        rounds: >= 1.
        num_clients: of the federation.
        cohort_size: clients of each round, all of which answered, from 1 to `num_clients`.
        delta: well below one over the number of clients.

    Raises:
        ValueError: a number is out of its range.
        ImportError: there is no `dp-accounting`.
    """
    if not noise_multiplier > 0 or rounds < 1 or not 1 <= cohort_size <= num_clients or not 0 < delta < 1:
        raise ValueError(
            "noise_multiplier is positive, rounds at least 1, cohort_size from 1 to num_clients and delta between 0 "
            f"and 1, got {noise_multiplier}, {rounds}, {cohort_size} of {num_clients}, {delta}."
        )
    try:
        import dp_accounting
        from dp_accounting.rdp import RdpAccountant
    except ImportError as error:
        raise ImportError("the accountant needs dp-accounting: pip install 'decollapse[privacy]'.") from error
    accountant = RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
    release = dp_accounting.GaussianDpEvent(noise_multiplier / 2)
    sampled = dp_accounting.SampledWithoutReplacementDpEvent(num_clients, cohort_size, release)
    return float(accountant.compose(sampled, rounds).get_epsilon(delta))
